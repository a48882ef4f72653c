"""A failed message is retried, redelivered or dead-lettered, and never skipped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from gizmopy.errors import Reject, Retry, UndecodableMessage
from gizmopy.pubsub import Capabilities, Message, RetryPolicy
from tests.pubsub.support import (
    TRANSIENT,
    Bench,
    Gate,
    always,
    capabilities,
    message,
    nothing,
    running,
    turns,
    until,
)


async def test_a_message_is_acked_once_its_handler_has_returned() -> None:
    """It is acked once, and not before."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        await turns()
        assert not bench.receiver.acked
        gate.open.set()
        await until(lambda: bench.settled)
    assert [m.id for m in bench.receiver.acked] == ["1"]
    assert bench.settled == [("1", "ack", None)]


async def test_a_failure_is_retried_in_place_with_jittered_backoff() -> None:
    """The message is kept, and each wait is at most the bound of the policy."""
    attempts = []

    async def handler(received: Message) -> None:
        attempts.append(received.attempt)
        if received.attempt < 3:
            raise ValueError("not yet")

    async with running(handler, retry=RetryPolicy(attempts=3, base=1, factor=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert attempts == [1, 2, 3]
    assert bench.outcomes == [("1", "ack")]
    assert 0 <= bench.sleeps[0] <= 1
    assert 0 <= bench.sleeps[1] <= 2
    assert bench.metric("retries") == 2


async def test_a_retry_that_waits_does_not_block_the_worker() -> None:
    """While one message waits for its retry, the only worker handles others."""
    wait = asyncio.Event()

    async def handler(received: Message) -> None:
        if received.id == "bad" and received.attempt == 1:
            raise ValueError

    async def sleep(_: float) -> None:
        await wait.wait()

    async with running(handler, sleep=sleep) as bench:
        bench.receiver.put(message(id="bad"), message(id="good"))
        await until(lambda: bench.outcomes == [("good", "ack")])
        wait.set()
        await until(lambda: bench.outcomes == [("good", "ack"), ("bad", "ack")])


async def test_an_unordered_message_goes_back_to_the_broker_after_its_attempts() -> None:
    """Without order, redelivery with a delay follows the retries, if the broker can."""
    error = ValueError("no")
    async with running(always(error), retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.settled == [("1", "nack", error)]
    assert not bench.receiver.acked
    ((_, delay),) = bench.receiver.nacked
    assert 0 <= delay <= 0.2


async def test_retry_after_is_the_delay_of_both_kinds_of_retry() -> None:
    """The wait of Retry(after=…) is exact, in place and at the broker."""
    async with running(always(Retry(after=7)), retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.sleeps == [7]
    assert [delay for _, delay in bench.receiver.nacked] == [7]


async def test_without_native_delay_the_engine_waits_before_it_nacks() -> None:
    """The engine keeps the message for the delay, then nacks it without one."""
    can = capabilities(native_delay=False)
    async with running(always(Retry(after=7)), can, retry=RetryPolicy(attempts=1)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.sleeps == [7]
    assert [delay for _, delay in bench.receiver.nacked] == [0]


async def test_the_dead_letter_follows_the_last_delivery() -> None:
    """At max_deliveries the message is published as a dead letter, then acked."""
    async with running(
        always(ValueError("bad cat")),
        retry=RetryPolicy(attempts=2),
        max_deliveries=3,
        dead_letter=True,
    ) as bench:
        original = message(b"body", id="7", key="k", attributes={"a": "b"}, delivery=3)
        bench.receiver.put(original)
        await until(lambda: bench.settled)
    assert bench.outcomes == [("7", "dead_letter")]
    assert bench.receiver.acked == [original]
    (dead,) = bench.dead
    assert (dead.body, dead.key, dead.attributes["a"]) == (b"body", "k", "b")
    assert dead.attributes["gizmo-dl-reason"] == "exhausted"
    assert dead.attributes["gizmo-dl-exception"] == "builtins.ValueError: bad cat"
    assert dead.attributes["gizmo-dl-source-topic"] == "t"
    assert dead.attributes["gizmo-dl-message-id"] == "7"
    assert (dead.attributes["gizmo-dl-deliveries"], dead.attributes["gizmo-dl-attempts"]) == (
        "3",
        "6",
    )
    assert dead.attributes["gizmo-dl-handler"] == "Cats.on_cat"
    assert dead.attributes["gizmo-dl-first-failed-at"].endswith("+00:00")
    assert bench.metric("dead_lettered", "exhausted") == 1


async def test_earlier_deliveries_are_not_dead_lettered() -> None:
    """Before max_deliveries the message goes back to the broker."""
    async with running(
        always(ValueError()), retry=RetryPolicy(attempts=1), max_deliveries=3, dead_letter=True
    ) as bench:
        bench.receiver.put(message(delivery=2))
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "nack")]
    assert not bench.dead


@pytest.mark.parametrize(
    ("can", "order"),
    [
        (capabilities(), "key"),
        (capabilities(), "partition"),
        (capabilities(can_nack=False), "none"),
        (capabilities(delivery_count=False), "none"),
    ],
)
async def test_in_place_a_message_has_as_many_attempts_before_it_is_dead_lettered(
    can: Capabilities, order: str
) -> None:
    """If a message is not given back, each round of attempts counts as a delivery."""
    runs = []

    async def handler(received: Message) -> None:
        runs.append(received.attempt)
        raise ValueError

    async with running(
        handler,
        can,
        order=order,
        retry=RetryPolicy(attempts=2),
        max_deliveries=3,
        dead_letter=True,
    ) as bench:
        bench.receiver.put(message(key="k"))
        await until(lambda: bench.settled)
    assert runs == [1, 2, 3, 4, 5, 6]
    assert bench.outcomes == [("1", "dead_letter")]
    assert not bench.receiver.nacked


async def test_reject_is_dead_lettered_at_once_with_its_reason() -> None:
    """Reject is not retried."""
    async with running(always(Reject("no such cat")), dead_letter=True) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "dead_letter")]
    assert bench.dead[0].attributes["gizmo-dl-reason"] == "no such cat"
    assert bench.dead[0].attributes["gizmo-dl-attempts"] == "1"
    assert bench.sleeps == []


async def test_an_undecodable_message_is_dead_lettered_once() -> None:
    """A body that cannot be decoded does not block the next message of its key."""

    def handler(received: Message) -> Coroutine[Any, Any, None]:
        if received.body == b"bad":
            raise UndecodableMessage("name: Field required")
        return nothing(received)

    async with running(handler, dead_letter=True, order="key") as bench:
        bench.receiver.put(message(b"bad", id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter"), ("2", "ack")]
    assert bench.dead[0].attributes["gizmo-dl-reason"] == "undecodable"


async def test_a_message_whose_dead_letter_is_refused_is_not_acked() -> None:
    """The message stays at the broker until its dead letter is confirmed."""
    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.dead_letter_errors = [TRANSIENT]
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        assert bench.outcomes == [("1", "nack")]
        assert not bench.receiver.acked
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes[1] == ("1", "dead_letter")


async def test_a_dead_letter_that_is_refused_blocks_an_ordered_lane() -> None:
    """In an ordered subscription the message stays in front until its dead letter is confirmed."""

    async def handler(received: Message) -> None:
        if received.id == "1":
            raise Reject("no")

    async with running(handler, dead_letter=True, order="key") as bench:
        bench.dead_letter_errors = [TRANSIENT, TRANSIENT]
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter"), ("2", "ack")]


@pytest.mark.parametrize("error", [Reject("no"), UndecodableMessage("no"), ValueError("no")])
async def test_without_a_dead_letter_channel_an_ordered_message_is_never_skipped(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It blocks its lane, is logged once, and is handled in the end."""

    async def handler(received: Message) -> None:
        if received.id == "1" and received.attempt < 40:
            raise error

    async with running(handler, order="key", max_deliveries=2) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "ack"), ("2", "ack")]
    stuck = [r for r in caplog.records if "no dead_letter= channel" in r.getMessage()]
    assert len(stuck) == 1
    assert stuck[0].levelno == logging.ERROR


@pytest.mark.parametrize("error", [Reject("no"), UndecodableMessage("no"), ValueError("no")])
async def test_without_a_dead_letter_channel_an_unordered_message_goes_back_forever(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is nacked at every delivery, and logged once."""
    async with running(always(error), max_deliveries=2) as bench:
        for count, delivery in enumerate((2, 3, 4000), start=1):
            bench.receiver.put(message(delivery=delivery))
            await until(partial(_has_nacked, bench, count))
        assert all(delay <= 30 for _, delay in bench.receiver.nacked)
    assert not bench.receiver.acked
    assert sum("no dead_letter= channel" in r.getMessage() for r in caplog.records) == 1


def _has_nacked(bench: Bench, count: int) -> bool:
    return len(bench.receiver.nacked) == count


async def test_a_body_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No log line of a failure quotes the body of a message."""
    caplog.set_level(logging.DEBUG)
    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.receiver.put(message(b"secret body"))
        await until(lambda: bench.settled)
    assert caplog.records
    assert "secret" not in caplog.text


async def test_a_cancellation_inside_the_publisher_counts_as_a_refused_dead_letter() -> None:
    """It neither acks the message nor stops the worker."""
    left: list[BaseException] = [asyncio.CancelledError()]

    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.dead_letter_errors = left
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "nack"), ("1", "dead_letter")]


async def test_a_message_is_given_back_if_the_drain_cancels_its_dead_letter() -> None:
    """It goes back to the broker, and is counted once."""
    asked = asyncio.Event()

    async def publish(_: Message) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with running(always(Reject("no")), dead_letter=publish) as bench:
        bench.receiver.put(message())
        await asked.wait()
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    assert bench.outcomes == [("1", "nack")]


class _Odd(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [_Odd("odd"), GeneratorExit()])
async def test_any_error_of_a_handler_is_a_failure_of_its_message(error: BaseException) -> None:
    """An error that is not an Exception ends neither the worker nor the subscriber."""

    async def handler(received: Message) -> None:
        if received.id == "1":
            raise error

    async with running(handler, dead_letter=True, max_deliveries=1) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert sorted(bench.outcomes) == [("1", "dead_letter"), ("2", "ack")]
