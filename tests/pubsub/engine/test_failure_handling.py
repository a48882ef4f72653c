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


async def test_a_message_is_acked_when_its_handler_has_returned() -> None:
    """Returning acks, once, and not before."""
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


async def test_a_failure_is_tried_again_in_place_with_jittered_backoff() -> None:
    """Attempts run here while the message is held, waiting at most as the policy says."""
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


async def test_a_waiting_retry_does_not_hold_the_worker() -> None:
    """While one message waits to be tried again, the only worker handles others."""
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


async def test_unordered_goes_back_to_the_broker_after_its_attempts() -> None:
    """Where there is no order and the broker can, redelivery with delay follows the retries."""
    error = ValueError("no")
    async with running(always(error), retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.settled == [("1", "nack", error)]
    assert not bench.receiver.acked
    ((_, delay),) = bench.receiver.nacked
    assert 0 <= delay <= 0.2


async def test_retry_after_names_the_delay_of_both_kinds_of_retry() -> None:
    """Retry(after=…) is waited for exactly, in place and at the broker."""
    async with running(always(Retry(after=7)), retry=RetryPolicy(attempts=2)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.sleeps == [7]
    assert [delay for _, delay in bench.receiver.nacked] == [7]


async def test_a_broker_without_delays_is_given_the_message_after_the_delay() -> None:
    """The engine holds the message for the delay, and nacks it then without one."""
    can = capabilities(native_delay=False)
    async with running(always(Retry(after=7)), can, retry=RetryPolicy(attempts=1)) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.sleeps == [7]
    assert [delay for _, delay in bench.receiver.nacked] == [0]


async def test_the_dead_letter_follows_the_last_delivery() -> None:
    """At max_deliveries the message is published as a dead letter, and then acked."""
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
    assert dead.attributes["dl-reason"] == "exhausted"
    assert dead.attributes["dl-exception"] == "builtins.ValueError: bad cat"
    assert dead.attributes["dl-source-topic"] == "t"
    assert dead.attributes["dl-message-id"] == "7"
    assert (dead.attributes["dl-deliveries"], dead.attributes["dl-attempts"]) == ("3", "6")
    assert dead.attributes["dl-handler"] == "Cats.on_cat"
    assert dead.attributes["dl-first-failed-at"].endswith("+00:00")
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
async def test_what_stays_in_place_runs_as_often_before_it_is_dead_lettered(
    can: Capabilities, order: str
) -> None:
    """Where a message is not given back, each round of attempts counts as a delivery."""
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
    """Reject is not tried again."""
    async with running(always(Reject("no such cat")), dead_letter=True) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "dead_letter")]
    assert bench.dead[0].attributes["dl-reason"] == "no such cat"
    assert bench.dead[0].attributes["dl-attempts"] == "1"
    assert bench.sleeps == []


async def test_the_undecodable_is_dead_lettered_once_and_the_next_flows() -> None:
    """A body that cannot be decoded blocks nobody, and is not logged."""

    def handler(received: Message) -> Coroutine[Any, Any, None]:
        if received.body == b"bad":
            raise UndecodableMessage("name: Field required")
        return nothing(received)

    async with running(handler, dead_letter=True, order="key") as bench:
        bench.receiver.put(message(b"bad", id="1", key="k"), message(id="2", key="k"))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "dead_letter"), ("2", "ack")]
    assert bench.dead[0].attributes["dl-reason"] == "undecodable"


async def test_a_dead_letter_that_is_refused_does_not_ack() -> None:
    """The message stays with the broker until its dead letter is confirmed."""
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
    """In an ordered subscription the message stays in front until its dead letter is taken."""

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
    """It blocks its lane, says so once, and is handled in the end."""

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
    """It is nacked however often it was delivered, and said to be stuck once."""
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
    """No failure quotes what a message holds."""
    caplog.set_level(logging.DEBUG)
    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.receiver.put(message(b"secret body"))
        await until(lambda: bench.settled)
    assert caplog.records
    assert "secret" not in caplog.text


async def test_a_publisher_that_is_cancelled_from_inside_has_refused_the_dead_letter() -> None:
    """A stray CancelledError on the way to the dead letters neither acks nor stops the worker."""
    left: list[BaseException] = [asyncio.CancelledError()]

    async with running(always(Reject("no")), dead_letter=True) as bench:
        bench.dead_letter_errors = left
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        bench.receiver.put(message(delivery=2))
        await until(lambda: len(bench.settled) == 2)
    assert bench.outcomes == [("1", "nack"), ("1", "dead_letter")]


async def test_a_dead_letter_under_way_at_the_deadline_is_given_back() -> None:
    """What the drain cancels on its way to the dead letters goes back, and is counted once."""
    asked = asyncio.Event()

    async def bury(_: Message) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with running(always(Reject("no")), dead_letter=bury) as bench:
        bench.receiver.put(message())
        await asked.wait()
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    assert bench.outcomes == [("1", "nack")]


class _Odd(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [_Odd("odd"), GeneratorExit()])
async def test_whatever_a_handler_raises_is_a_failure_of_its_message(error: BaseException) -> None:
    """What is no Exception ends neither the worker nor the subscriber."""

    async def handler(received: Message) -> None:
        if received.id == "1":
            raise error

    async with running(handler, dead_letter=True, max_deliveries=1) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert sorted(bench.outcomes) == [("1", "dead_letter"), ("2", "ack")]
