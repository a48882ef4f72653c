"""Batch handlers: their parameters, the result for each message, and their declaration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from gizmopy.errors import (
    DeclarationError,
    Reject,
    Retry,
    UndecodableMessage,
    UsageError,
)
from gizmopy.observe.context import message_id
from gizmopy.pubsub import (
    Message,
    RetryPolicy,
    Subscription,
    collect_subscriptions,
    subscribe,
)
from gizmopy.pubsub.handlers import BatchResults
from tests.pubsub.support import (
    Bench,
    capabilities,
    held,
    lose_lease,
    message,
    nothing,
    running,
    turns,
    until,
)


class Cat(BaseModel):
    name: str


class Batches:
    """A batch handler that records its batches, and returns the results that the test sets."""

    def __init__(self, errors: dict[str, BaseException] | None = None) -> None:
        self.errors = errors or {}
        self.seen: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, batch: Sequence[Message]) -> BatchResults:
        self.seen.append([each.id for each in batch])
        await self.open.wait()
        return [self.errors.get(each.id) for each in batch]


def in_batches(handler: Batches, size: int = 10, **options: Any) -> Any:
    """Run a subscriber with a batch handler."""
    can = options.pop("can", None)
    return running(nothing, can, batch_handler=handler, batch_size=size, **options)


def put(bench: Bench, *ids: str, **fields: Any) -> None:
    """Have messages with these ids received."""
    bench.receiver.put(*(message(id=id_, **fields) for id_ in ids))


async def test_a_batch_holds_the_received_messages_up_to_its_size() -> None:
    """In the order of their receipt, and without a wait for more."""
    batches = Batches()
    async with in_batches(batches, 3) as bench:
        put(bench, *"12345")
        await until(lambda: len(bench.settled) == 5)
    assert batches.seen == [["1", "2", "3"], ["4", "5"]]
    assert bench.outcomes == [(id_, "ack") for id_ in "12345"]


async def test_a_batch_waits_until_it_is_full() -> None:
    """A full batch ends the wait."""
    batches = Batches()
    async with in_batches(batches, 3, batch_wait=60) as bench:
        for id_ in "123":
            put(bench, id_)
            await turns()
        await until(lambda: len(bench.settled) == 3)
    assert batches.seen == [["1", "2", "3"]]


async def test_a_batch_that_waits_is_handled_when_the_drain_begins() -> None:
    """A worker has collected its messages: they are handled rather than given back."""
    batches = Batches()
    async with in_batches(batches, 3, batch_wait=60) as bench:
        put(bench, "1", "2")
        await until(lambda: not bench.receiver.queue)
        await turns()
        async with asyncio.timeout(5):
            report = await bench.subscriber.drain(30)
    assert report == (2, 0, 0, 0)
    assert batches.seen == [["1", "2"]]


async def test_each_message_has_its_own_outcome() -> None:
    """A handled message is acked, whatever the results of the others."""
    error = ValueError("no")
    batches = Batches({"bad": error, "never": Reject("no such cat")})
    once = RetryPolicy(attempts=1)
    async with in_batches(batches, dead_letter=True, retry=once) as bench:
        put(bench, "good", "bad", "never", "fine")
        await until(lambda: len(bench.settled) == 4)
    assert set(bench.outcomes) == {
        ("good", "ack"),
        ("fine", "ack"),
        ("bad", "nack"),
        ("never", "dead_letter"),
    }
    assert [dead.attributes["gizmo-dl-reason"] for dead in bench.dead] == ["no such cat"]


async def test_a_message_that_is_retried_joins_a_later_batch() -> None:
    """It has its own attempts, and is handled with the messages of that batch."""
    attempts: list[dict[str, int]] = []

    async def handler(batch: Sequence[Message]) -> BatchResults:
        attempts.append({each.id: each.attempt for each in batch})
        return [ValueError() if each.id == "1" and each.attempt < 3 else None for each in batch]

    async with running(nothing, batch_handler=handler, batch_size=10) as bench:
        put(bench, "1", "2")
        await until(lambda: len(bench.settled) == 2)
    assert attempts == [{"1": 1, "2": 1}, {"1": 2}, {"1": 3}]


async def test_a_message_that_is_postponed_is_not_counted() -> None:
    """Retry(counted=False) for one message of a batch does not count as an attempt."""
    attempts: list[int] = []
    errors: list[BaseException | None] = [Retry(counted=False)] * 5 + [None]

    async def handler(batch: Sequence[Message]) -> BatchResults:
        attempts.append(batch[0].attempt)
        return [errors.pop(0)]

    async with running(nothing, batch_handler=handler, batch_size=10) as bench:
        put(bench, "1")
        await until(lambda: bench.settled)
    assert attempts == [1] * 6
    assert bench.metric("postponed") == 5


async def test_an_error_of_the_handler_is_a_failure_of_each_message() -> None:
    """All messages of the batch are retried."""
    errors = [ValueError(), ValueError()]

    async def handler(batch: Sequence[Message]) -> BatchResults:
        if errors:
            raise errors.pop()
        return [None] * len(batch)

    async with running(nothing, batch_handler=handler, batch_size=10) as bench:
        put(bench, "1", "2", "3")
        await until(lambda: len(bench.settled) == 3)
    assert {outcome for _, outcome in bench.outcomes} == {"ack"}
    assert bench.metric("retries") >= 6


async def test_a_batch_holds_one_message_of_each_key() -> None:
    """If order is kept, the next message of a key waits for the batch of the one before."""
    batches = Batches()
    async with in_batches(batches, order="key", concurrency=2) as bench:
        batches.open.clear()
        bench.receiver.put(
            message(id="a1", key="a"),
            message(id="a2", key="a"),
            message(id="b1", key="b"),
            message(id="free"),
            message(id="free too"),
        )
        await until(lambda: batches.seen)
        await turns()
        assert batches.seen == [["a1", "b1", "free", "free too"]]
        batches.open.set()
        await until(lambda: len(bench.settled) == 5)
    assert batches.seen[1:] == [["a2"]]


async def test_a_failed_message_of_a_batch_blocks_its_key() -> None:
    """Its successor waits for it; the others of its batch do not."""
    attempts: list[str] = []

    async def handler(batch: Sequence[Message]) -> BatchResults:
        attempts.extend(each.id for each in batch)
        return [ValueError() if each.id == "a1" and each.attempt < 3 else None for each in batch]

    async with running(nothing, batch_handler=handler, batch_size=10, order="key") as bench:
        bench.receiver.put(message(id="a1", key="a"), message(id="a2", key="a"))
        await until(lambda: len(bench.settled) == 2)
    assert attempts == ["a1", "a1", "a1", "a2"]


async def test_as_many_batches_run_at_a_time_as_concurrency() -> None:
    """Each worker has a batch of its own."""
    batches = Batches()
    batches.open.clear()
    async with in_batches(batches, 2, concurrency=2) as bench:
        put(bench, *"12345")
        await until(lambda: len(batches.seen) == 2)
        await turns()
        assert batches.seen == [["1", "2"], ["3", "4"]]
        batches.open.set()
        await until(lambda: len(bench.settled) == 5)


async def test_a_message_that_is_lost_while_its_batch_waits_is_left_out() -> None:
    """The rest is handled; the lost one is not acked, and its key is free."""
    batches = Batches()
    async with in_batches(batches, 2, batch_wait=60, order="key") as bench:
        bench.receiver.put(message(id="lost", key="k", partition=1))
        await until(lambda: not bench.receiver.queue)
        await turns()
        await bench.subscriber.revoke([1], 0)
        bench.receiver.put(message(id="other", key="o"))
        await until(lambda: bench.settled and ("other", "ack") in bench.outcomes)
        bench.receiver.put(message(id="again", key="k"), message(id="more"))
        await until(lambda: ("again", "ack") in bench.outcomes)
    assert batches.seen == [["other"], ["again", "more"]]
    assert bench.outcomes[0] == ("lost", "lost")


async def test_a_message_that_is_lost_while_its_batch_is_handled_is_stale() -> None:
    """The others of the batch are acked."""
    batches = Batches()
    batches.open.clear()
    async with in_batches(batches) as bench:
        bench.receiver.put(message(id="1", partition=1), message(id="2", partition=2))
        await until(lambda: batches.seen)
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        batches.open.set()
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "lost"), ("2", "ack")]
    assert [each.id for each in bench.receiver.acked] == ["2"]
    assert bench.metric("stale_settles") == 1


async def test_a_batch_that_is_cancelled_by_the_drain_is_given_back() -> None:
    """Each message counts as cancelled, and none is acked."""
    batches = Batches()
    batches.open.clear()
    async with in_batches(batches) as bench:
        put(bench, "1", "2")
        await until(lambda: batches.seen)
        report = await bench.subscriber.drain(0)
    assert report == (0, 0, 2, 0)
    assert bench.outcomes == [("1", "nack"), ("2", "nack")]
    assert bench.receiver.acked == []


async def test_a_batch_has_the_ids_of_its_messages() -> None:
    """Each batch has its own, whatever a handler has set."""
    seen: list[str] = []

    async def handler(batch: Sequence[Message]) -> BatchResults:
        seen.append(message_id.get())
        message_id.set("mine")
        return [None] * len(batch)

    async with running(nothing, batch_handler=handler, batch_size=2) as bench:
        put(bench, "1", "2", "3")
        await until(lambda: len(bench.settled) == 3)
    assert seen == ["1, 2", "3"]


async def test_a_failing_ack_affects_only_its_message() -> None:
    """Batches of a handler and batches of a broker are independent."""
    batches = Batches()
    async with in_batches(batches, 4, can=capabilities(batch_messages=3)) as bench:
        put(bench, *"1234")
        await until(lambda: len(bench.settled) == 4)
    assert bench.receiver.ack_batches == [3, 1]


# @subscribe(batch_size=...)


def compiled(method: Callable[..., Any], **options: Any) -> Subscription:
    """Return the subscription of a service with one handler."""
    vars(method).clear()
    marked = subscribe("cats", **{"batch_size": 10} | options)(method)
    service = type("Service", (), {method.__name__: marked})()
    (subscription,) = collect_subscriptions(service, "s")
    return subscription


async def results_of(subscription: Subscription, *bodies: bytes | None) -> BatchResults:
    """Handle messages with these bodies as one batch, and return the results."""
    assert subscription.batch_handler is not None
    return await subscription.batch_handler([message(body) for body in bodies])


async def test_payloads_and_messages_are_lists_in_the_same_order() -> None:
    """They are passed by name, in whichever order they are declared."""
    seen: list[tuple[list[Message], list[Cat]]] = []

    async def on_cats(self: object, received: list[Message], cats: list[Cat]) -> None:
        seen.append((received, cats))

    assert await results_of(compiled(on_cats), b'{"name": "Tom"}', b'{"name": "Kit"}') == [
        None,
        None,
    ]
    ((received, cats),) = seen
    assert [cat.name for cat in cats] == ["Tom", "Kit"]
    assert [each.body for each in received] == [b'{"name": "Tom"}', b'{"name": "Kit"}']


async def test_the_payload_type_is_that_of_the_items() -> None:
    """The row of the subscription names the type of one message."""

    async def on_cats(self: object, cats: list[Cat]) -> None:
        """Take cats."""

    assert compiled(on_cats).payload is Cat


async def test_an_undecodable_message_does_not_reach_the_handler() -> None:
    """Its result is the error; the others are handled and keep their results."""
    seen: list[str] = []
    error = ValueError("not Kit")

    async def on_cats(
        self: object, cats: list[Cat], received: list[Message]
    ) -> list[Exception | None]:
        assert len(cats) == len(received)
        seen.extend(cat.name for cat in cats)
        return [error if cat.name == "Kit" else None for cat in cats]

    subscription = compiled(on_cats)
    results = await results_of(
        subscription, b"no", b'{"name": "Tom"}', None, b'{"name": "Kit"}', b'{"name": "Bo"}'
    )
    assert seen == ["Tom", "Kit", "Bo"]
    assert isinstance(results[0], UndecodableMessage)
    assert isinstance(results[2], UndecodableMessage)
    assert [results[1], results[3], results[4]] == [None, error, None]


async def test_a_batch_without_a_decodable_message_calls_no_handler() -> None:
    """A handler never gets an empty list."""

    async def on_cats(self: object, cats: list[Cat]) -> None:
        raise AssertionError

    (error,) = await results_of(compiled(on_cats), b"no")
    assert isinstance(error, UndecodableMessage)


async def test_a_tombstone_is_none_if_the_list_may_hold_it() -> None:
    """As for one message."""
    seen: list[Cat | None] = []

    async def on_cats(self: object, cats: list[Cat | None]) -> None:
        seen.extend(cats)

    await results_of(compiled(on_cats), None, b'{"name": "Tom"}')
    assert seen == [None, Cat(name="Tom")]


@pytest.mark.parametrize("returned", [[], [None], [None] * 3, [None, "no"], "ab", [True, False]])
async def test_invalid_results_of_a_batch_handler_are_an_error(returned: Any) -> None:
    """Nothing is acked if the results do not match the messages."""

    async def on_cats(self: object, received: list[Message]) -> Any:
        return returned

    with pytest.raises(UsageError, match=r"a batch handler returned .* for 2 messages"):
        await results_of(compiled(on_cats), b"1", b"2")


async def test_an_error_of_a_batch_handler_is_raised() -> None:
    """The engine makes it the failure of each message."""

    async def on_cats(self: object, received: list[Message]) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await results_of(compiled(on_cats), b"1")


async def test_one_message_can_be_handled_as_a_batch_of_one() -> None:
    """In tests, for example; its error is raised."""

    async def on_cats(self: object, cats: list[Cat]) -> list[Exception | None]:
        return [ValueError("not Kit") if cats[0].name == "Kit" else None]

    handler = compiled(on_cats).handler
    await handler(message(b'{"name": "Tom"}'))
    with pytest.raises(ValueError, match="not Kit"):
        await handler(message(b'{"name": "Kit"}'))
    with pytest.raises(UndecodableMessage):
        await handler(message(b"no"))


async def _one(self: object, cat: Cat) -> None:
    """Take one message although batches are declared."""


async def _bare(self: object, cats: list) -> None:  # type: ignore[type-arg]  # that is the mistake
    """Take a list of anything."""


async def _one_message(self: object, cats: list[Cat], received: Message) -> None:
    """Take a batch and one message."""


async def _sequence(self: object, cats: Sequence[Cat]) -> None:
    """Take another kind of list."""


async def _two(self: object, cats: list[Cat], dogs: list[Cat]) -> None:
    """Take two payloads."""


async def _messages(self: object, some: list[Message], more: list[Message]) -> None:
    """Take the messages twice."""


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (_one, "'cat' takes a batch; annotate it as list"),
        (_bare, "'cats' takes a batch; annotate it as list"),
        (_one_message, "'received' takes a batch; annotate it as list"),
        (_sequence, "'cats' takes a batch; annotate it as list"),
        (_two, "'cats' and 'dogs' both take the payload"),
        (_messages, "takes the Message twice"),
    ],
)
def test_a_batch_is_declared_as_a_list(method: Callable[..., Any], reason: str) -> None:
    """The error names file, line, method and remedy."""
    with pytest.raises(DeclarationError, match=reason) as caught:
        compiled(method)
    assert f"{__file__}:" in str(caught.value)
    assert method.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": -1}, "neither may be negative"),
        ({"batch_wait": -0.1}, "neither may be negative"),
        ({"batch_size": 0, "batch_wait": 1}, "batch_wait=1 has no effect without batch_size="),
        (
            {"concurrency": 3, "max_in_flight": 29},
            "max_in_flight=29 is too small for concurrency=3 with batch_size=10; use 30 or more",
        ),
        ({"middleware": [lambda handler: handler]}, "middleware= wraps handlers of one message"),
    ],
)
def test_invalid_options_of_batches_are_refused(options: dict[str, Any], reason: str) -> None:
    """The error names the value and the remedy."""
    with pytest.raises(DeclarationError, match=reason):
        compiled(_messages, **options)


async def _cats(self: object, cats: list[Cat]) -> None:
    """Take cats."""


@pytest.mark.parametrize(
    ("concurrency", "size", "expected"), [(1, 10, 100), (4, 50, 200), (200, 0, 200)]
)
def test_by_default_all_batches_can_be_full(concurrency: int, size: int, expected: int) -> None:
    """Otherwise a worker would wait for a batch that cannot be filled."""
    method = _cats if size else _one_cat
    subscription = compiled(method, concurrency=concurrency, batch_size=size)
    assert subscription.max_in_flight == expected


async def _one_cat(self: object, cat: Cat) -> None:
    """Take a cat."""
