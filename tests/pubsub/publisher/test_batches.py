"""Batches: which messages are sent together, in which order, and how failures are retried."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message, RetryPolicy
from tests.pubsub.publisher.support import (
    HELD,
    PERMANENT,
    TRANSIENT,
    GatedSender,
    HandClock,
    bodies,
    failures,
    publisher,
)
from tests.pubsub.support import turns, until


async def test_messages_that_arrive_during_a_send_form_batches() -> None:
    """The sender is called once at a time, with at most the broker's batch size."""
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
    """Batches are split by bytes too; a message larger than a batch is sent alone."""
    sender = GatedSender()
    size = len("content-typeapplication/octet-stream")
    async with publisher(sender, batch_bytes=2 * (size + 10)) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(b"x" * n)) for n in (1, 10, 10, 10, 300)]
        await turns()
        sender.gate.set()
        await asyncio.gather(*calls)
    assert [len(batch) for batch in sender.batches] == [1, 2, 1, 1]


@pytest.mark.parametrize("error", [PERMANENT, RuntimeError("a bug"), UsageError("closed")])
async def test_only_transient_errors_are_retried(error: Exception) -> None:
    """Any other error is raised at once, for a direct send and for a batch."""
    sender = GatedSender()
    sender.call_error = error
    async with publisher(sender) as out:
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(3)]
        assert await asyncio.gather(*calls, return_exceptions=True) == [error] * 3
    assert len(sender.batches) == 3


async def test_transient_errors_are_retried_as_often_as_the_policy_says() -> None:
    """The last error is raised after the last attempt of the policy."""
    sender = GatedSender()
    sender.verdict = lambda _: TRANSIENT
    async with publisher(sender, retry=RetryPolicy(attempts=4)) as out:
        with pytest.raises(PubSubError, match="throttled"):
            await out.publish("1")
        await turns()
    assert sender.batches == [["1"]] * 4


async def test_a_retry_holds_back_the_later_messages_of_its_key() -> None:
    """While a message waits for its retry, later ones of its key wait; other keys do not."""
    sender = GatedSender()
    fail = [TRANSIENT, TRANSIENT]
    sender.verdict = lambda m: fail.pop() if m.body == b"a1" and fail else None
    async with publisher(sender) as out:
        await asyncio.gather(*(out.publish(v, key=v[0]) for v in ("a1", "a2", "b1", "a3", "b2")))
    sent = bodies(sender)
    assert [s for s in sent if s[0] == "a"] == ["a1", "a2", "a3"]
    assert sent.index("b1") < sent.index("a1")


async def test_a_batch_has_one_message_of_a_key() -> None:
    """A partial failure cannot change the order: the key's next message is in a later batch."""
    sender = GatedSender()
    async with publisher(sender) as out:
        sender.gate.clear()
        calls = [asyncio.create_task(out.publish(str(n), key="k")) for n in range(4)]
        calls += [asyncio.create_task(out.publish(f"n{n}")) for n in range(2)]
        await turns()
        sender.gate.set()
        await asyncio.gather(*calls)
    assert sender.batches == [["0"], ["1", "n0", "n1"], ["2"], ["3"]]


async def test_a_permanent_failure_does_not_block_its_key() -> None:
    """The later messages of the key are sent: the caller knows about the failure."""
    sender = GatedSender()
    sender.verdict = lambda m: PERMANENT if m.body == b"1" else None
    async with publisher(sender) as out:
        results = await asyncio.gather(
            *(out.publish(v, key="k") for v in ("1", "2")), return_exceptions=True
        )
    assert results == [PERMANENT, None]


async def test_ordered_batches_hold_several_messages_of_a_key() -> None:
    """One key alone fills whole batches."""
    sender = GatedSender()
    async with publisher(sender, ordered_batches=True) as out:
        await out.publish_many(map(str, range(25)), key="k")
    assert sender.batches == [[str(n) for n in range(s, min(s + 10, 25))] for s in (0, 10, 20)]


async def test_ordered_batches_are_retried_in_order() -> None:
    """A failed message and the later ones of its key are sent again in order; other keys go on."""
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


async def test_messages_behind_a_refused_one_keep_their_attempts() -> None:
    """A message has all of its attempts, however many before it are refused permanently."""
    sender = GatedSender()
    sender.verdict = lambda m: PERMANENT if m.body == b"bad" else None
    async with publisher(sender, ordered_batches=True, retry=RetryPolicy(attempts=2)) as out:
        results = await out.publish_many(["bad"] * 5 + ["good"], key="k")
    assert results == [PERMANENT] * 5 + [None]


async def test_ordered_batches_end_their_attempts_together() -> None:
    """In an outage the messages of a batch fail together, after the attempts of the policy."""
    sender = GatedSender()
    sender.verdict = lambda _: TRANSIENT
    async with publisher(sender, ordered_batches=True, retry=RetryPolicy(attempts=3)) as out:
        results = await out.publish_many(list("123"), key="k")
    assert results == [TRANSIENT, HELD, HELD]
    assert sender.batches == [["1", "2", "3"]] * 3


async def test_the_publisher_does_not_retry_if_the_client_does() -> None:
    """With ``client_retries`` the first failure is final, for a direct send and for a batch."""
    sender, metrics = GatedSender(), Metrics()
    sender.verdict = lambda _: TRANSIENT
    async with publisher(sender, metrics, client_retries=True) as out:
        with pytest.raises(PubSubError, match="throttled"):
            await out.publish("1")
        assert await out.publish_many(list("23")) == [TRANSIENT] * 2
    assert sender.batches == [["1"], ["2", "3"]]
    assert failures(metrics) == {"transient": 3}


async def test_closing_during_a_backoff_waits_for_the_retry() -> None:
    """aclose waits for the retry and loses nothing."""
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


@pytest.mark.parametrize("others", [0, 3])
async def test_a_cancelled_error_of_the_driver_is_a_failure(others: int) -> None:
    """A CancelledError that the driver itself causes fails the publish, alone or in a batch."""

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


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=25),
    failures=st.lists(st.booleans(), max_size=30),
    buffered=st.integers(1, 5),
)
def test_keys_keep_their_order_whatever_fails(
    keys: list[str | None], failures: list[bool], buffered: int
) -> None:
    """Under random transient failures each message is sent once, and each key in order."""
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
