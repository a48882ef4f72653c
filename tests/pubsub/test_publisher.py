"""The publisher: batches, retries, limits, order, and an end that flushes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.context import propagated_attributes
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, Publisher, RetryPolicy
from tests.pubsub.support import capabilities, no_wait, turns, until

TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("no permission", transient=False)
HELD = PubSubError("behind a message that failed", transient=True)


class Opaque:
    """Nothing that pydantic knows."""


class GatedSender:
    """Send when the gate is open; fail as ``verdict`` says."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.verdict: Callable[[Message], Exception | None] = lambda _: None
        self.call_error: Exception | None = None
        self.calls = 0
        self.most_calls = 0
        self.closes = 0
        self.short = 0
        self.slow = False
        """Take a turn of the loop to answer."""
        self.holds_keys = False
        """Fail what comes behind a failed message of its key, as ordered batches do."""

    async def connect(self) -> None:
        pass

    async def send(self, batch: Sequence[Message]) -> Sequence[Exception | None]:
        self.batches.append([(m.body or b"").decode() for m in batch])
        self.calls += 1
        self.most_calls = max(self.calls, self.most_calls)
        try:
            await self.gate.wait()
            if self.slow:
                await asyncio.sleep(0)
        finally:
            self.calls -= 1
        if self.call_error is not None:
            raise self.call_error
        results: list[Exception | None] = []
        failed: set[str | None] = set()
        for message in batch:
            held = self.holds_keys and message.key in failed
            results.append(HELD if held else self.verdict(message))
            if results[-1] is None:
                self.sent.append(message)
            elif message.key is not None:
                failed.add(message.key)
        return results[self.short :]

    async def aclose(self) -> None:
        self.closes += 1


LIMITS = ("batch_messages", "batch_bytes", "message_bytes", "ordered_batches", "client_retries")


def publisher(sender: GatedSender, metrics: Metrics | None = None, **options: Any) -> Publisher:
    """Return a publisher whose limits and options are the default, but for ``options``."""
    limits = capabilities(**{name: options.pop(name) for name in LIMITS if name in options})
    sender.holds_keys = limits.ordered_batches
    options = {"sleep": no_wait} | options
    return Publisher(sender, "t", metrics=metrics or Metrics(), limits=limits, **options)


def bodies(sender: GatedSender) -> list[str]:
    """Return what was confirmed, in order."""
    return [(message.body or b"").decode() for message in sender.sent]


def failures(metrics: Metrics) -> dict[str, float]:
    """Return how many failures of each kind were counted."""
    counter = metrics.counter("gizmo_pubsub_publish_failures", "")
    return {kind: child.value for (_, kind), child in counter.children() if child.value}


def buffered(metrics: Metrics) -> float:
    """Return how many messages the publisher says that it holds."""
    return metrics.gauge("gizmo_pubsub_publish_buffered", "").child("t").value


class HandClock:
    """Waits that last until the test ends them."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        over = self._over
        await over.wait()

    def end(self) -> None:
        """End every wait that there is."""
        self._over.set()
        self._over = asyncio.Event()


async def test_a_lone_publish_goes_out_directly() -> None:
    """With nothing in flight, no task is made; the message says how it is encoded."""
    sender = GatedSender()
    async with publisher(sender) as out:
        before = asyncio.all_tasks()
        await out.publish({"a": 1}, key="k", attributes={"b": "c"})
        assert asyncio.all_tasks() == before
    (message,) = sender.sent
    assert (message.topic, message.body, message.key) == ("t", b'{"a":1}', "k")
    assert message.attributes == {"content-type": "application/json", "b": "c"}
    assert message.id


async def test_publish_returns_after_the_confirmation() -> None:
    """Until the broker has confirmed, the caller waits."""
    sender = GatedSender()
    async with publisher(sender) as out:
        sender.gate.clear()
        call = asyncio.create_task(out.publish(b"1"))
        await turns()
        assert not call.done()
        sender.gate.set()
        await call


async def test_what_comes_while_a_send_is_in_flight_goes_out_together() -> None:
    """One call at a time, within the broker's batch limit."""
    sender = GatedSender()
    async with publisher(sender) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n))) for n in range(15)]
        await turns()
        sender.gate.set()
        await asyncio.gather(*calls)
    assert [len(batch) for batch in sender.batches] == [1, 10, 4]
    assert sender.most_calls == 1


async def test_a_batch_stays_within_the_bytes_of_the_broker() -> None:
    """Batches are split by bytes too; a message that is larger than a batch goes alone."""
    sender = GatedSender()
    size = len("content-typeapplication/octet-stream")
    async with publisher(sender, batch_bytes=2 * (size + 10)) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(b"x" * n)) for n in (1, 10, 10, 10, 300)]
        await turns()
        sender.gate.set()
        await asyncio.gather(*calls)
    assert [len(batch) for batch in sender.batches] == [1, 2, 1, 1]


async def test_results_reach_the_right_caller() -> None:
    """A failed item raises in its own caller, and in no other."""
    sender = GatedSender()
    sender.verdict = lambda m: PERMANENT if m.body == b"bad" else None
    metrics = Metrics()
    async with publisher(sender, metrics) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(b)) for b in (b"1", b"bad", b"2")]
        await turns()
        sender.gate.set()
        assert await asyncio.gather(*calls, return_exceptions=True) == [None, PERMANENT, None]
    assert failures(metrics) == {"permanent": 1}
    seconds = metrics.histogram("gizmo_pubsub_publish_seconds", "")
    assert sum(seconds.child("t").counts) == 2


@pytest.mark.parametrize("error", [PERMANENT, RuntimeError("a bug"), UsageError("closed")])
async def test_only_transient_errors_are_tried_again(error: Exception) -> None:
    """What cannot help is raised at once, directly and in a batch."""
    sender = GatedSender()
    sender.call_error = error
    async with publisher(sender) as out:
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(3)]
        assert await asyncio.gather(*calls, return_exceptions=True) == [error] * 3
    assert len(sender.batches) == 3


async def test_transient_errors_are_tried_again_until_the_policy_ends() -> None:
    """The last error is raised after as many attempts as the policy has."""
    sender = GatedSender()
    sender.verdict = lambda _: TRANSIENT
    async with publisher(sender, retry=RetryPolicy(attempts=4)) as out:
        with pytest.raises(PubSubError, match="throttled"):
            await out.publish("1")
        await turns()
    assert sender.batches == [["1"]] * 4


async def test_a_failed_item_holds_its_keys_successors() -> None:
    """While a key's message is tried again, its successors wait; other keys do not."""
    sender = GatedSender()
    fail = [TRANSIENT, TRANSIENT]
    sender.verdict = lambda m: fail.pop() if m.body == b"a1" and fail else None
    async with publisher(sender) as out:
        await asyncio.gather(*(out.publish(v, key=v[0]) for v in ("a1", "a2", "b1", "a3", "b2")))
    sent = bodies(sender)
    assert [s for s in sent if s[0] == "a"] == ["a1", "a2", "a3"]
    assert sent.index("b1") < sent.index("a1")


async def test_a_batch_has_one_message_of_a_key() -> None:
    """A partial failure can therefore not overtake: the successor is not in the same call."""
    sender = GatedSender()
    async with publisher(sender) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(4)]
        calls += [asyncio.create_task(out.publish(f"n{n}")) for n in range(2)]
        await turns()
        sender.gate.set()
        await asyncio.gather(*calls)
    assert sender.batches == [["0"], ["1", "n0", "n1"], ["2"], ["3"]]


async def test_a_message_that_fails_for_good_lets_its_successors_go() -> None:
    """The key is not blocked by what its caller knows to have failed."""
    sender = GatedSender()
    sender.verdict = lambda m: PERMANENT if m.body == b"1" else None
    async with publisher(sender) as out:
        results = await asyncio.gather(
            *(out.publish(v, key="k") for v in ("1", "2")), return_exceptions=True
        )
    assert results == [PERMANENT, None]


async def test_an_oversize_message_is_refused_before_the_wire() -> None:
    """The error names the size and the limit; key and attributes count."""
    sender = GatedSender()
    attributes = len("content-typeapplication/octet-stream")
    async with publisher(sender, message_bytes=attributes + 12) as out:
        await out.publish(b"x" * 10, key="kk")
        with pytest.raises(PubSubError, match=f"{attributes + 13} bytes.* takes {attributes + 12}"):
            await out.publish(b"x" * 10, key="kkk")
    assert len(sender.batches) == 1


async def test_bytes_that_are_not_utf8_count_as_they_are_sent() -> None:
    """What was received with such bytes can be passed on: each surrogate is a byte on the wire."""
    sender = GatedSender()
    attributes = {"content-type": "x", "n": "v\udcfe"}
    size = len(b"content-typex") + len(b"nv\xfe") + len(b"k\xfd") + len(b"body")
    async with publisher(sender, message_bytes=size) as out:
        await out.publish(Message("t", b"body", key="k\udcfd", attributes=attributes))
        with pytest.raises(PubSubError, match=f"{size + 1} bytes"):
            await out.publish(Message("t", b"body!", key="k\udcfd", attributes=attributes))
    assert len(sender.batches) == 1


async def test_the_buffer_is_bounded_and_waits() -> None:
    """Beyond the bound a publish waits for room: it is neither dropped nor buffered."""
    sender, metrics = GatedSender(), Metrics()
    async with publisher(sender, metrics, buffered=2) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(10)]
        await turns()
        assert buffered(metrics) == 2
        sender.gate.set()
        await asyncio.gather(*calls)
        assert buffered(metrics) == 0
    assert bodies(sender) == [str(n) for n in range(10)]


async def test_the_buffer_is_bounded_by_bytes() -> None:
    """Bytes count as messages do; one that is larger than the bound has the buffer to itself."""
    sender, metrics = GatedSender(), Metrics()
    size = len("content-typeapplication/octet-stream")
    async with publisher(sender, metrics, buffered_bytes=2 * (size + 10)) as out:
        sender.gate.clear()
        lengths = (1, 10, 10, 10, 500, 1)
        calls = [asyncio.create_task(out.publish(b"x" * n)) for n in lengths]
        await turns()
        assert buffered(metrics) == 2
        sender.gate.set()
        await asyncio.gather(*calls)
    assert [[len(body) for body in batch] for batch in sender.batches] == [
        [1],
        [10, 10],
        [10],
        [500],
        [1],
    ]


async def test_who_waits_for_room_is_not_overtaken() -> None:
    """A call of the same key that comes later is sent later, though nothing is in flight."""
    sender = GatedSender()
    async with publisher(sender, buffered=1) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("0"))

        async def second_then_fourth() -> None:
            await out.publish("1", key="k")
            await out.publish("3", key="k")

        await turns()
        others = asyncio.create_task(second_then_fourth())
        await turns()
        third = asyncio.create_task(out.publish("2", key="k"))
        await turns()
        sender.gate.set()
        await asyncio.gather(first, others, third)
    assert bodies(sender) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("which", [0, 1, 2, 3])
async def test_cancelling_one_caller_harms_no_other(which: int) -> None:
    """Whether it is being sent, buffered, or waits for its key: the others are sent."""
    sender = GatedSender()
    async with publisher(sender, buffered=2) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(5)]
        await turns()
        calls[which].cancel()
        await turns()
        sender.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(r, asyncio.CancelledError) for r in results].count(True) == 1
        await out.publish("last", key="k")
    assert bodies(sender) == [str(n) for n in range(5) if n != which] + ["last"]


async def test_close_flushes_what_was_accepted() -> None:
    """Everything published before the close is sent, retries included; then the sender closes."""
    sender = GatedSender()
    fail = [TRANSIENT]
    sender.verdict = lambda m: fail.pop() if m.body == b"3" and fail else None
    out = publisher(sender, buffered=2)
    sender.gate.clear()
    calls = [asyncio.create_task(out.publish(str(n))) for n in range(6)]
    await turns()
    closing = asyncio.create_task(out.aclose())
    await turns()
    assert not closing.done()
    sender.gate.set()
    await closing
    await asyncio.gather(*calls)
    assert len(sender.sent) == 6
    assert sender.closes == 1


async def test_a_close_waits_for_a_lone_send_and_no_longer() -> None:
    """It ends as soon as the one message that is being sent is confirmed."""
    sender = GatedSender()
    out = publisher(sender)
    sender.gate.clear()
    call = asyncio.create_task(out.publish("1"))
    await turns()
    closing = asyncio.create_task(out.aclose(3600))
    await turns()
    assert not closing.done()
    sender.gate.set()
    await turns()
    assert closing.done()
    await asyncio.gather(call, closing)


async def test_publishing_after_the_close_is_a_mistake() -> None:
    """A closed publisher says so; closing it again is fine."""
    sender = GatedSender()
    out = publisher(sender)
    await out.aclose()
    await out.aclose()
    with pytest.raises(UsageError, match="closed"):
        await out.publish("1")


async def test_a_driver_that_answers_too_little_is_found_out() -> None:
    """Nobody waits forever for a result that the driver forgot."""
    sender = GatedSender()
    sender.short = 1
    async with publisher(sender) as out:
        with pytest.raises(PubSubError, match="answered 0 of 1"):
            await out.publish("1")


@pytest.mark.parametrize(
    ("value", "options", "reason"),
    [
        ("x", {"key": 1}, "key=1 is no text"),
        ("x", {"key": "\ud800"}, "not UTF-8"),
        ("x", {"attributes": {"n": 1}}, "attribute 'n'=1 is no text"),
        ("x", {"attributes": {"n": "\ud800"}}, "not UTF-8"),
        ("\ud800", {}, "text cannot be published"),
        (Opaque(), {}, "Opaque has no codec"),
        ({"a": object()}, {}, "dict cannot be published as JSON"),
        (Message("t", "x", id="i"), {}, "body of 'i' is no bytes but str"),  # type: ignore[arg-type]  # it is refused
        (Message("t", bytearray(b"x")), {}, "no bytes but bytearray"),  # type: ignore[arg-type]  # it is refused
        (Message("t", b"x", attributes={"n\udcff": "x"}), {}, r"'n\\udcff' is not UTF-8"),
        (Message("t", b"x", attributes={"n": 1}), {}, "attribute 'n'=1 is no text"),  # type: ignore[dict-item]  # it is refused
    ],
)
async def test_what_cannot_be_published_says_why(
    value: object, options: dict[str, Any], reason: str
) -> None:
    """A value, a key or an attribute that no broker can carry is refused at the call."""
    sender = GatedSender()
    async with publisher(sender) as out:
        with pytest.raises(UsageError, match=reason):
            await out.publish(value, **options)
    assert not sender.batches


async def test_a_message_is_sent_on_as_it_stands() -> None:
    """Publishing a Message keeps body, key and attributes, and adds none."""
    sender = GatedSender()
    async with publisher(sender) as out:
        await out.publish(Message("old", b"x", key="\udcff", attributes={"a": "b"}))
        await out.publish(Message("old", None, key="k"), attributes={"c": "d"}, key="other")
    first, second = sender.sent
    assert (first.topic, first.body, first.key) == ("t", b"x", "\udcff")
    assert first.attributes == {"a": "b"}
    assert (second.body, second.key, second.attributes) == (None, "other", {"c": "d"})


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=25),
    failures=st.lists(st.booleans(), max_size=30),
    buffered=st.integers(1, 5),
)
def test_keys_keep_their_order_whatever_fails(
    keys: list[str | None], failures: list[bool], buffered: int
) -> None:
    """Under random transient failures everything is sent once, each key in order."""
    asyncio.run(_publish_all(keys, failures, buffered))


async def _publish_all(keys: list[str | None], failures: list[bool], buffered: int) -> None:
    sender = GatedSender()
    sender.verdict = lambda _: TRANSIENT if failures and failures.pop() else None
    async with publisher(sender, buffered=buffered, retry=RetryPolicy(attempts=50)) as out:
        await asyncio.gather(*(out.publish(str(n), key=key) for n, key in enumerate(keys)))
    sent = [(m.key, int(m.body or b"")) for m in sender.sent]
    assert sorted(n for _, n in sent) == list(range(len(keys)))
    for key in ("a", "b"):
        numbers = [n for k, n in sent if k == key]
        assert numbers == sorted(numbers)


async def test_the_publisher_ends_when_the_wait_for_a_retry_does() -> None:
    """A close during a backoff waits for it, and loses nothing."""
    sender, wait = GatedSender(), asyncio.Event()
    fail = [TRANSIENT]
    sender.verdict = lambda _: fail.pop() if fail else None

    async def sleep(_: float) -> None:
        await wait.wait()

    out = publisher(sender, sleep=sleep)
    call = asyncio.create_task(out.publish("1"))
    await until(lambda: sender.batches)
    closing = asyncio.create_task(out.aclose())
    await turns()
    assert not closing.done()
    wait.set()
    await closing
    await call


async def test_who_gives_up_does_not_make_room() -> None:
    """What its caller no longer waits for is in the buffer until it is taken out: it is bounded."""
    sender, metrics = GatedSender(), Metrics()
    async with publisher(sender, metrics, buffered=2) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("0"))
        await turns()
        for number in range(1, 10):
            call = asyncio.create_task(out.publish(str(number)))
            await turns(5)
            call.cancel()
            await turns(5)
        assert buffered(metrics) == 2
        sender.gate.set()
        await first
        await asyncio.gather(*(out.publish(n) for n in "ab"))
    assert bodies(sender) == ["0", "a", "b"]


@pytest.mark.parametrize("others", [0, 3])
async def test_a_driver_that_is_cancelled_from_inside_has_failed(others: int) -> None:
    """A stray CancelledError of the driver is an error of the publish, alone or in a batch."""

    def verdict(message: Message) -> None:
        if message.body == b"bad":
            raise asyncio.CancelledError

    sender = GatedSender()
    sender.verdict = verdict
    async with publisher(sender) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(v)) for v in [*"123"[:others], "bad", "last"]]
        await turns()
        sender.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(error, PubSubError) for error in results)
        assert not any(isinstance(error, asyncio.CancelledError) for error in results)
        await out.publish("after")
    assert sender.sent[-1].body == b"after"


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_close_ends_though_the_broker_does_not_answer(is_cancelled: bool) -> None:
    """At its deadline, or cancelled, it tells every caller that waits, and leaves no task."""
    sender = GatedSender()
    out = publisher(sender, buffered=3, sleep=_forever)
    sender.verdict = lambda m: TRANSIENT if m.body == b"retried" else None
    retried = asyncio.create_task(out.publish("retried", key="k"))
    await turns()
    sender.gate.clear()
    keys = ["k", None, "k", "l", None]
    calls = [asyncio.create_task(out.publish(str(n), key=key)) for n, key in enumerate(keys)]
    await turns()
    closing = asyncio.create_task(out.aclose(60 if is_cancelled else 0))
    await turns(5)
    if is_cancelled:
        closing.cancel()
    results = await asyncio.gather(retried, *calls, closing, return_exceptions=True)
    closed = results.pop()
    assert [type(error) for error in results] == [PubSubError] * 6
    assert isinstance(closed, asyncio.CancelledError) == is_cancelled
    await out.aclose()
    assert sender.closes == 2 - is_cancelled


async def test_a_close_tells_those_who_wait_behind_a_send_that_hangs() -> None:
    """A lone send is its caller's own; who waits behind it, for its key or for room, is told."""
    sender = GatedSender()
    out = publisher(sender, buffered=2)
    sender.gate.clear()
    calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(5)]
    await turns()
    await out.aclose(0)
    done, (hanging,) = await asyncio.wait(calls, timeout=1)
    assert [type(call.exception()) for call in done] == [PubSubError] * 4
    hanging.cancel()
    await asyncio.wait([hanging])


async def _forever(_: float) -> None:
    await asyncio.Event().wait()


# Many at once.


async def test_many_are_published_in_one_call() -> None:
    """Each has its own result, in order; what cannot be sent harms no other."""
    sender, metrics = GatedSender(), Metrics()
    sender.verdict = lambda m: PERMANENT if m.body == b"bad" else None
    async with publisher(sender, metrics) as out:
        ok, bad, opaque, last = await out.publish_many(["ok", "bad", Opaque(), "last"])
        assert (ok, bad, last) == (None, PERMANENT, None)
        assert isinstance(opaque, UsageError)
        assert await out.publish_many([]) == []
    assert sender.batches == [["ok", "bad", "last"]]
    assert failures(metrics) == {"permanent": 1, "encode": 1}


async def test_many_have_a_key_each() -> None:
    """A key is the key of all, or a function of the value; a Message brings all of its own."""
    sender = GatedSender()
    async with publisher(sender) as out:
        await out.publish_many([{"id": "a"}, {"id": "b"}], key=lambda cat: cat["id"])
        await out.publish_many([1, 2], key="k", attributes={"c": "d"})
        await out.publish_many([Message("x", b"1", key="m", attributes={"e": "f"})])
        (error,) = await out.publish_many([{}], key=lambda cat: cat["id"])
    assert isinstance(error, KeyError)
    assert [m.key for m in sender.sent] == ["a", "b", "k", "k", "m"]
    assert [m.attributes.get("c") for m in sender.sent] == [None, None, "d", "d", None]
    assert (sender.sent[-1].topic, sender.sent[-1].attributes) == ("t", {"e": "f"})


async def test_many_are_taken_as_there_is_room() -> None:
    """A generator without end in sight is not read ahead of the broker."""
    sender, taken = GatedSender(), 0

    def values() -> Iterator[str]:
        nonlocal taken
        for number in range(100):
            taken = number + 1
            yield str(number)

    async with publisher(sender, buffered=10) as out:
        sender.gate.clear()
        call = asyncio.create_task(out.publish_many(values()))
        await turns()
        assert taken == 11
        sender.gate.set()
        assert await call == [None] * 100
    assert bodies(sender) == [str(n) for n in range(100)]


async def test_many_let_others_have_their_turn() -> None:
    """Who publishes a little does not wait until all of the many are in the buffer."""
    sender = GatedSender()
    async with publisher(sender, buffered=2) as out:
        sender.gate.clear()
        many = asyncio.create_task(out.publish_many(map(str, range(100)), key="k"))
        await turns()
        other = asyncio.create_task(out.publish("other"))
        await turns()
        sender.gate.set()
        await asyncio.gather(many, other)
    sent = bodies(sender)
    assert sent.index("other") < 10
    sent.remove("other")
    assert sent == [str(n) for n in range(100)]


async def test_many_that_are_cancelled_are_not_sent_after_that() -> None:
    """What is on the wire may arrive; what waits is dropped, and makes room for others."""
    sender, metrics = GatedSender(), Metrics()
    async with publisher(sender, metrics, buffered=4) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("first"))
        await turns()
        many = asyncio.create_task(out.publish_many(map(str, range(9)), key="k"))
        await turns()
        many.cancel()
        await asyncio.wait([many])
        sender.gate.set()
        await first
        await out.publish("last")
    assert bodies(sender) == ["first", "last"]
    assert buffered(metrics) == 0


async def test_values_that_raise_end_the_call() -> None:
    """An error of the iterable is the caller's; failures of those before it are not left over."""
    sender = GatedSender()
    sender.verdict = lambda _: PERMANENT

    def values() -> Iterator[str]:
        yield from "123"
        raise LookupError("no more")

    async with publisher(sender) as out:
        with pytest.raises(LookupError, match="no more"):
            await out.publish_many(values())


async def test_many_after_the_close_is_a_mistake() -> None:
    """A closed publisher says so, and counts it."""
    metrics = Metrics()
    out = publisher(GatedSender(), metrics)
    await out.aclose()
    with pytest.raises(UsageError, match="closed"):
        await out.publish_many(["1"])
    assert failures(metrics) == {"closed": 1}


# Linger: batches that wait to be full.


def linger(count: int, out: Publisher) -> list[asyncio.Task[None]]:
    """Publish so many messages, each in a task."""
    return [asyncio.create_task(out.publish(str(n))) for n in range(count)]


async def test_a_batch_waits_to_be_full() -> None:
    """What comes while it lingers goes along; it goes when the time is over."""
    sender, clock = GatedSender(), HandClock()
    async with publisher(sender, linger=5.0, sleep=clock.sleep) as out:
        calls = linger(3, out)
        await turns()
        assert not sender.batches
        (wait,) = clock.waits
        assert 4 < wait <= 5
        clock.end()
        await asyncio.gather(*calls)
        again = linger(1, out)
        await turns()
        assert len(clock.waits) == 2
        clock.end()
        await asyncio.gather(*again)
    assert sender.batches == [["0", "1", "2"], ["0"]]


async def test_a_full_batch_does_not_wait() -> None:
    """Full by count or by bytes, it goes at once; what is left over lingers."""
    sender, clock = GatedSender(), HandClock()
    async with publisher(sender, linger=5.0, sleep=clock.sleep) as out:
        calls = linger(12, out)
        await turns()
        assert [len(batch) for batch in sender.batches] == [10]
        clock.end()
        await asyncio.gather(*calls)
    sender = GatedSender()
    size = len("content-typetext/plain; charset=utf-8") + 1
    async with publisher(sender, linger=5.0, sleep=clock.sleep, batch_bytes=2 * size) as out:
        await asyncio.gather(*linger(4, out))
    assert [len(batch) for batch in sender.batches] == [2, 2]


async def test_a_batch_that_becomes_full_leaves_no_timer() -> None:
    """Nothing waits for the rest of the time that it did not need."""
    sender = GatedSender()
    async with publisher(sender, linger=5.0, sleep=_forever) as out:
        calls = linger(3, out)
        await turns()
        await asyncio.gather(*calls, *linger(7, out))
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [len(batch) for batch in sender.batches] == [10]


async def test_nothing_lingers_while_others_wait_for_its_room() -> None:
    """A buffer that is smaller than a batch does not stand still."""
    sender = GatedSender()
    async with publisher(sender, linger=5.0, sleep=_forever, buffered=2) as out:
        calls = linger(5, out)
        await asyncio.gather(*calls[:4])
        await out.aclose()
        await calls[4]
    assert len(sender.sent) == 5


async def test_a_close_does_not_wait_for_what_lingers() -> None:
    """It is sent at once, and nothing is left running."""
    sender = GatedSender()
    out = publisher(sender, linger=5.0, sleep=_forever)
    calls = linger(2, out)
    await turns()
    await out.aclose()
    await asyncio.gather(*calls)
    assert sender.batches == [["0", "1"]]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_has_waited_behind_a_send_does_not_linger_again() -> None:
    """The time counts from the publish, not from when the wire is free."""
    sender, clock = GatedSender(), HandClock()
    async with publisher(sender, linger=1e-9, sleep=clock.sleep) as out:
        await out.publish("1")
    assert sender.batches == [["1"]]
    assert not clock.waits


# Several messages of a key in one batch, where the broker keeps their order.


async def test_ordered_batches_hold_several_messages_of_a_key() -> None:
    """A hot key is as fast as many keys."""
    sender = GatedSender()
    async with publisher(sender, ordered_batches=True) as out:
        await out.publish_many(map(str, range(25)), key="k")
    assert sender.batches == [[str(n) for n in range(s, min(s + 10, 25))] for s in (0, 10, 20)]


async def test_ordered_batches_are_tried_again_in_order() -> None:
    """What fails takes its key's later ones along; no later one overtakes, other keys do."""
    sender, clock = GatedSender(), HandClock()
    fail = [TRANSIENT]
    sender.verdict = lambda m: fail.pop() if m.body == b"a2" and fail else None
    async with publisher(sender, ordered_batches=True, sleep=clock.sleep) as out:
        values = ["a1", "a2", "a3", "b1"]
        many = asyncio.create_task(out.publish_many(values, key=lambda value: value[0]))
        await turns()
        later = [asyncio.create_task(out.publish(v, key=v[0])) for v in ("a4", "b2")]
        await turns()
        assert bodies(sender) == ["a1", "b1", "b2"]
        clock.end()
        assert await many == [None] * 4
        await asyncio.gather(*later)
    assert bodies(sender) == ["a1", "b1", "b2", "a2", "a3", "a4"]
    assert len(clock.waits) == 1


async def test_those_behind_a_refused_message_have_not_been_tried() -> None:
    """However many before it are refused for good, a message has all of its attempts."""
    sender = GatedSender()
    sender.verdict = lambda m: PERMANENT if m.body == b"bad" else None
    async with publisher(sender, ordered_batches=True, retry=RetryPolicy(attempts=2)) as out:
        results = await out.publish_many(["bad"] * 5 + ["good"], key="k")
    assert results == [PERMANENT] * 5 + [None]


async def test_ordered_batches_end_their_attempts_together() -> None:
    """An outage fails all that were tried as often as the policy says, not one after another."""
    sender = GatedSender()
    sender.verdict = lambda _: TRANSIENT
    async with publisher(sender, ordered_batches=True, retry=RetryPolicy(attempts=3)) as out:
        results = await out.publish_many("123", key="k")
    assert results == [TRANSIENT, HELD, HELD]
    assert sender.batches == [["1", "2", "3"]] * 3


# The rest of the contract.


async def test_what_the_client_retries_is_not_retried() -> None:
    """Where the driver's client does it, one failure is the last; alone and in a batch."""
    sender, metrics = GatedSender(), Metrics()
    sender.verdict = lambda _: TRANSIENT
    async with publisher(sender, metrics, client_retries=True) as out:
        with pytest.raises(PubSubError, match="throttled"):
            await out.publish("1")
        assert await out.publish_many("23") == [TRANSIENT] * 2
    assert sender.batches == [["1"], ["2", "3"]]
    assert failures(metrics) == {"transient": 3}


async def test_what_is_carried_goes_along() -> None:
    """The running code's attributes are added; the message's and the call's own win."""
    sender = GatedSender()
    token = propagated_attributes.set(
        {"traceparent": "00-1", "content-type": "odd", "a": "carried"}
    )
    try:
        async with publisher(sender) as out:
            await out.publish(b"1", attributes={"a": "call"})
            await out.publish(Message("x", b"2", attributes={"traceparent": "own"}))
            await out.publish_many([b"3"])
    finally:
        propagated_attributes.reset(token)
    first, second, third = (dict(m.attributes) for m in sender.sent)
    octets = {"content-type": "application/octet-stream"}
    assert first == {"traceparent": "00-1", "a": "call"} | octets
    assert second == {"traceparent": "own", "content-type": "odd", "a": "carried"}
    assert third == {"traceparent": "00-1", "a": "carried"} | octets


async def test_failures_are_counted_by_kind() -> None:
    """Each kind has its count from the start; there are no others."""
    sender, metrics = GatedSender(), Metrics()
    kinds = {"transient", "permanent", "oversize", "encode", "closed"}
    out = publisher(sender, metrics, message_bytes=100, retry=RetryPolicy(attempts=1))
    counter = metrics.counter("gizmo_pubsub_publish_failures", "")
    assert {values for values, _ in counter.children()} == {("t", kind) for kind in kinds}
    verdicts: list[tuple[Any, Exception | None]] = [
        ("1", TRANSIENT),
        ("1", PERMANENT),
        ("1", RuntimeError("a bug")),
        ("1" * 101, None),
        (Opaque(), None),
    ]
    for value, error in verdicts:
        sender.call_error = error
        with pytest.raises(Exception):  # noqa: B017, PT011 - which one is tested elsewhere
            await out.publish(value)
    await out.aclose()
    with pytest.raises(UsageError):
        await out.publish("1")
    assert failures(metrics) == dict.fromkeys(kinds, 1) | {"permanent": 2}


async def test_what_a_close_stops_is_counted_as_closed() -> None:
    """It is neither the broker's refusal nor a fault of the message."""
    sender, metrics = GatedSender(), Metrics()
    out = publisher(sender, metrics, buffered=2)
    sender.gate.clear()
    first = asyncio.create_task(out.publish("0"))
    calls = [asyncio.create_task(out.publish("1")) for _ in range(4)]
    await turns()
    await out.aclose(0)
    await asyncio.wait(calls)
    sender.gate.set()
    await asyncio.gather(first, *calls, return_exceptions=True)
    assert failures(metrics) == {"closed": 4}
    assert buffered(metrics) == 0


VERDICTS = st.sampled_from([None, None, TRANSIENT, TRANSIENT, PERMANENT])


@settings(max_examples=100, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=30),
    verdicts=st.lists(VERDICTS, max_size=60),
    cuts=st.lists(st.integers(1, 5), min_size=30, max_size=30),
    ordered_batches=st.booleans(),
    slow=st.booleans(),
    lingers=st.booleans(),
    room=st.sampled_from([1, 2, 3, 5, 8, 30]),
)
def test_every_call_has_one_result_and_every_key_its_order(
    keys: list[str | None],
    verdicts: list[Exception | None],
    cuts: list[int],
    ordered_batches: bool,
    slow: bool,
    lingers: bool,
    room: int,
) -> None:
    """Whatever fails, for good or for now: confirmed is what arrived, once, each key in order.

    Where there is room for all, that is the order of the calls. Where there is not, each call of
    many keeps its own order, and those of one the order of the calls.
    """
    sender = GatedSender()
    sender.slow = slow
    sender.verdict = lambda _: verdicts.pop() if verdicts else None
    options = {
        "ordered_batches": ordered_batches,
        "batch_messages": 4,
        "linger": 60.0 if lingers else 0.0,
        "buffered": room,
        "retry": RetryPolicy(attempts=4),
    }
    parts: list[range] = []
    while (start := parts[-1].stop if parts else 0) < len(keys):
        parts.append(range(start, min(start + cuts[len(parts)], len(keys))))
    confirmed = asyncio.run(_publish_in_parts(sender, keys, parts, options))
    sent = [(message.key, int(message.body or b"")) for message in sender.sent]
    assert Counter(number for _, number in sent) == Counter(confirmed)
    singles = [part.start for part in parts if len(part) == 1]
    in_order = [range(len(keys))] if room >= len(keys) else [*parts, singles]
    for key, numbers in product("abc", in_order):
        ours = [number for k, number in sent if k == key and number in numbers]
        assert ours == sorted(ours)


async def _publish_in_parts(
    sender: GatedSender, keys: list[str | None], parts: list[range], options: dict[str, Any]
) -> list[int]:
    """Publish each number under its key, some in one call; return those that were confirmed."""
    async with publisher(sender, **options) as out:

        async def one(number: int) -> list[Exception | None]:
            try:
                await out.publish(str(number), key=keys[number])
            except PubSubError as error:
                return [error]
            return [None]

        async def part(numbers: range) -> Sequence[Exception | None]:
            if len(numbers) == 1:
                return await one(numbers[0])
            return await out.publish_many(map(str, numbers), key=lambda n: keys[int(n)])

        results = await asyncio.gather(*map(part, parts))
        assert (out._buffer.messages, out._buffer.bytes, out._buffer._lanes) == (0, 0, {})
    assert [len(result) for result in results] == [len(numbers) for numbers in parts]
    every = [error for result in results for error in result]
    return [number for number, error in enumerate(every) if error is None]
