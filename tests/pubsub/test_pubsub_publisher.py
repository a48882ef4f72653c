"""The publisher: batches, retries, limits, order, and an end that flushes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, Publisher, RetryPolicy
from tests.pubsub.pubsub_fakes import capabilities, no_wait, turns, until

TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("no permission", transient=False)


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

    async def connect(self) -> None:
        pass

    async def send(self, batch: Sequence[Message]) -> Sequence[Exception | None]:
        self.batches.append([(m.body or b"").decode() for m in batch])
        self.calls += 1
        self.most_calls = max(self.calls, self.most_calls)
        try:
            await self.gate.wait()
        finally:
            self.calls -= 1
        if self.call_error is not None:
            raise self.call_error
        results = [self.verdict(message) for message in batch]
        pairs = zip(batch, results, strict=True)
        self.sent += [message for message, error in pairs if error is None]
        return results[self.short :]

    async def aclose(self) -> None:
        self.closes += 1


def publisher(sender: GatedSender, metrics: Metrics | None = None, **options: Any) -> Publisher:
    """Return a publisher whose limits and options are the default, but for ``options``."""
    limits = capabilities(**{k: options.pop(k) for k in list(options) if k.endswith("bytes")})
    options = {"sleep": no_wait} | options
    return Publisher(sender, "t", metrics=metrics or Metrics(), limits=limits, **options)


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
    """Batches are split by bytes too; one message may have them all."""
    sender = GatedSender()
    size = len("content-typeapplication/octet-stream")
    async with publisher(sender, batch_bytes=2 * (size + 10)) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(b"x" * n)) for n in (1, 10, 10, 10, 30)]
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
    failures = metrics.counter("gizmo_pubsub_publish_failures", "")
    assert failures.cell("t", "permanent").value == 1
    seconds = metrics.histogram("gizmo_pubsub_publish_seconds", "")
    assert sum(seconds.cell("t").counts) == 2


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
    sent = [(m.body or b"").decode() for m in sender.sent]
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
    assert sender.batches == [["0"], ["n0", "n1", "1"], ["2"], ["3"]]


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


async def test_the_buffer_is_bounded_and_waits() -> None:
    """Beyond the bound a publish waits for room: it is neither dropped nor buffered."""
    sender = GatedSender()
    async with publisher(sender, buffered=2) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(10)]
        await turns()
        waiting = sum(len(lane or ()) for lane in out._lanes._lanes.values())
        assert waiting == 2
        sender.gate.set()
        await asyncio.gather(*calls)
    assert [(m.body or b"").decode() for m in sender.sent] == [str(n) for n in range(10)]


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
    assert [(m.body or b"").decode() for m in sender.sent] == ["0", "1", "2", "3"]


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
    sent = [(m.body or b"").decode() for m in sender.sent]
    assert sent == [str(n) for n in range(5) if n != which] + ["last"]


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
    sender = GatedSender()
    async with publisher(sender, buffered=2) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("0"))
        await turns()
        for number in range(1, 10):
            call = asyncio.create_task(out.publish(str(number)))
            await turns(5)
            call.cancel()
            await turns(5)
        assert len(out._buffer) == 2
        sender.gate.set()
        await first
        await asyncio.gather(*(out.publish(n) for n in "ab"))
    assert [(m.body or b"").decode() for m in sender.sent] == ["0", "a", "b"]


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
