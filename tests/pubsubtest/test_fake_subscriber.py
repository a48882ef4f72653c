"""FakeSubscriber: one handler on the real engine, with the messages of a test."""

import asyncio
import inspect
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel

import pubsubtest
from gizmopy import Message, Reject, Retry, Service, Settings, subscribe
from gizmopy.errors import PubSubError, UndecodableMessage, UsageError
from gizmopy.pubsub import Handler, RetryPolicy
from pubsubtest import FakeSubscriber, incoming


def _refuse(handler: Handler) -> Handler:
    async def refuse(message: Message) -> None:
        raise Reject("by middleware")

    return refuse


class Cat(BaseModel):
    name: str


class Cats(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.seen: list[str] = []

    @subscribe("cats", dead_letter="dead-cats", max_deliveries=3)
    async def on_cat(self, cat: Cat, message: Message) -> None:
        self.seen.append(cat.name)
        match cat.name:
            case "shy" if message.delivery == 1:
                raise Retry(after=3600)
            case "rejected":
                raise Reject("no such cat")
            case "broken":
                raise RuntimeError("broken cat")
            case "sleepy":
                await asyncio.Event().wait()

    @subscribe("dogs")
    async def on_dog(self, name: str) -> None:
        if name == "bad":
            raise RuntimeError("bad dog")

    @subscribe("birds")
    async def on_bird(self, bird: StringValue | None) -> None:
        self.seen.append(bird.value if bird else "tombstone")

    @subscribe("fish", order="key")
    async def on_fish(self, name: str) -> None:
        raise RuntimeError("always")

    @subscribe("mice", batch_size=2, batch_wait=3600, dead_letter="dead-mice")
    async def on_mice(self, names: list[str]) -> Sequence[Exception | None]:
        self.seen.append(" ".join(names))
        return [Reject("bad mouse") if name == "bad" else None for name in names]


async def test_the_example_in_its_docstring_is_true() -> None:
    """The example in the documentation works."""
    documentation = inspect.getdoc(FakeSubscriber) or ""
    _, _, example = documentation.partition("::\n\n")
    example, _, _ = example.partition("\n\nUse ``pubsubtest")
    names = {"FakeSubscriber": FakeSubscriber, "Cats": Cats, "Cat": Cat}
    body = textwrap.indent(textwrap.dedent(example), "    ")
    exec(f"async def example():\n{body}", names)
    run: Any = names["example"]
    await run()
    assert "await fake.run" in example


async def test_each_message_has_an_outcome_in_the_order_given() -> None:
    """An outcome is ack, nack with its delay, or dead letter with its reason."""
    cats = Cats()
    fake = FakeSubscriber(cats.on_cat)
    outcomes = await fake.run([Cat(name="Tom"), {"name": "shy"}, Cat(name="rejected"), b"garbage"])
    assert outcomes == ["ack", "nack", "dead_letter", "dead_letter"]
    tom, shy, rejected, garbage = outcomes
    assert (tom.error, tom.delay, tom.dead_letter) == (None, None, None)
    assert (tom.message.topic, tom.message.delivery, tom.message.attempt) == ("cats", 1, 1)
    assert isinstance(shy.error, Retry)
    assert shy.delay == 3600
    assert isinstance(rejected.error, Reject)
    assert rejected.dead_letter is not None
    assert rejected.dead_letter.topic == "dead-cats"
    assert rejected.dead_letter.value(Cat) == Cat(name="rejected")
    assert rejected.dead_letter.attributes["gizmo-dl-reason"] == "no such cat"
    assert isinstance(garbage.error, UndecodableMessage)
    assert garbage.dead_letter is not None
    assert garbage.dead_letter.body == b"garbage"
    assert cats.seen == ["Tom", "shy", "rejected"]


async def test_a_nacked_message_is_delivered_again_on_request() -> None:
    """With redeliver the outcome is the last one."""
    cats = Cats()
    fake = FakeSubscriber(cats.on_cat)
    shy, broken = await fake.run([Cat(name="shy"), Cat(name="broken")], redeliver=True)
    assert (shy, shy.message.delivery) == ("ack", 2)
    assert (broken, broken.message.delivery) == ("dead_letter", 3)
    assert broken.dead_letter is not None
    assert broken.dead_letter.attributes["gizmo-dl-attempts"] == "9"
    assert cats.seen.count("broken") == 9


async def test_a_message_is_delivered_as_it_is() -> None:
    """The test chooses key, attributes and delivery, and its Message is not changed."""
    fake = FakeSubscriber(Cats().on_cat)
    last = incoming(Cat(name="broken"), key="k", attributes={"colour": "black"}, delivery=3)
    for _ in range(2):
        (outcome,) = await fake.run([last])
        assert outcome == "dead_letter"
        assert outcome.message.attributes["colour"] == "black"
        assert outcome.dead_letter is not None
        assert outcome.dead_letter.key == "k"
        assert outcome.dead_letter.attributes["gizmo-dl-reason"] == "exhausted"
    assert last.attempt == 0


async def test_protobuf_and_tombstones_and_text_arrive() -> None:
    """Values are encoded as a publisher encodes them."""
    cats = Cats()
    given = [StringValue(value="Tweety"), None]
    assert await FakeSubscriber(cats.on_bird).run(given) == ["ack", "ack"]
    assert cats.seen == ["Tweety", "tombstone"]
    assert await FakeSubscriber(cats.on_dog).run(["good", "bad"]) == ["ack", "nack"]


async def test_an_error_of_the_broker_comes_in_its_turn() -> None:
    """Receiving goes on after a transient error; a permanent one ends the run and is raised."""
    fake = FakeSubscriber(Cats().on_dog)
    away = PubSubError("away", transient=True)
    assert await fake.run([away, "Rex", away, away, "Fido", away]) == ["ack", "ack"]
    with pytest.raises(PubSubError, match="no permission"):
        await fake.run(["Rex", PubSubError("no permission", transient=False), "Fido"])


async def test_batches_are_handled_together() -> None:
    """Messages fill batches, no batch waits for more, and each message has its outcome."""
    cats = Cats()
    outcomes = await FakeSubscriber(cats.on_mice).run(["a", "bad", "c"])
    assert outcomes == ["ack", "dead_letter", "ack"]
    assert cats.seen == ["a bad", "c"]


async def test_a_batch_waits_for_messages_that_come_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the engine: two receives, or a redelivery, fill one batch."""
    monkeypatch.setattr("pubsubtest.subscriber._BATCH_WAIT", 60.0)  # only full batches end in time
    cats, away = Cats(), PubSubError("away", transient=True)
    assert await FakeSubscriber(cats.on_mice).run(["a", away, "b"]) == ["ack", "ack"]
    assert cats.seen == ["a b"]

    seen: list[str] = []

    async def on_mice(names: list[str]) -> Sequence[Exception | None]:
        seen.append(" ".join(names))
        return [Retry() if len(seen) == 1 and name == "a" else None for name in names]

    fake = FakeSubscriber(on_mice, batch_size=2, batch_wait=3600, retry=RetryPolicy(attempts=1))
    assert await fake.run(["a", "b", "c"], redeliver=True) == ["ack"] * 3
    assert seen in (["a b", "c a"], ["a b", "a c"])


async def test_a_batch_without_a_wait_takes_what_is_there() -> None:
    """As in the engine: with batch_wait=0 nothing is waited for."""
    seen: list[str] = []

    async def on_mice(names: list[str]) -> None:
        seen.append(" ".join(names))

    away = PubSubError("away", transient=True)
    fake = FakeSubscriber(on_mice, batch_size=2)
    assert await fake.run(["a", away, "b"]) == ["ack", "ack"]
    assert seen == ["a", "b"]


async def test_a_run_without_messages_returns_at_once() -> None:
    """A run without messages returns at once."""
    assert await FakeSubscriber(Cats().on_dog).run([]) == []


async def test_any_function_will_do_with_options() -> None:
    """The options are those of @subscribe; order by key is kept."""
    seen: list[str] = []

    async def on_letter(letter: str) -> None:
        seen.append(letter)
        await asyncio.sleep(0)
        if seen.count(letter) < 2:
            raise RuntimeError("once more")

    fake = FakeSubscriber(on_letter, order="key", concurrency=5, retry=RetryPolicy(attempts=5))
    outcomes = await fake.run([incoming(letter, key="k") for letter in "abc"])
    assert outcomes == ["ack"] * 3
    assert seen == ["a", "a", "b", "b", "c", "c"]


async def test_a_marked_function_keeps_its_marks() -> None:
    """A function with @subscribe needs no options; options replace its own."""

    @subscribe("x", dead_letter="dead")
    async def on_x(text: str) -> None:
        raise Reject("no")

    assert await FakeSubscriber(on_x).run(["a"]) == ["dead_letter"]
    assert await FakeSubscriber(on_x, max_deliveries=2).run(["a"]) == ["nack"]


async def test_the_services_own_middleware_is_around_the_handler() -> None:
    """The handler runs as in the daemon, with the service's middleware."""

    class Wrapped(Cats):
        message_middleware = (_refuse,)

    assert await FakeSubscriber(Wrapped().on_cat).run([Cat(name="Tom")]) == ["dead_letter"]


async def test_a_handler_without_subscribe_is_rejected() -> None:
    """The error says what to add."""

    async def plain(text: str) -> None: ...

    with pytest.raises(UsageError, match="plain has no @subscribe; add it, or pass"):
        FakeSubscriber(plain)


@pytest.mark.parametrize("name", ["on_fish", "on_cat"])
async def test_a_message_that_is_never_settled_times_out(name: str) -> None:
    """A handler that hangs, or blocks its key, raises TimeoutError."""
    fake = FakeSubscriber(getattr(Cats(), name))
    given = [incoming(Cat(name="sleepy") if name == "on_cat" else "Wanda", key="k")] * 2
    with pytest.raises(TimeoutError, match=rf"2 of 2 .* within 0\.05 s: Cats.{name} hangs"):
        await fake.run(given, timeout=0.05)


def test_all_are_found_in_pubsubtest() -> None:
    """All doubles can be imported from pubsubtest."""
    assert set(pubsubtest.__all__) <= set(dir(pubsubtest))
    assert sorted(pubsubtest.__all__) == pubsubtest.__all__
