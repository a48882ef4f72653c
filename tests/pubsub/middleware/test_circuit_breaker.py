"""circuit_breaker: the circuit opens after failures in a row, and a trial closes it."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.errors import Reject, Retry, UndecodableMessage, UsageError
from gizmopy.pubsub import Handler, Message, MessageMiddleware, RetryPolicy
from gizmopy.pubsub.middleware import circuit_breaker
from tests.pubsub.support import FakeClock, message, running, until

DOWN = ConnectionError("the database is down")


class Behind:
    """The service behind the handler: it fails while ``error`` is set, and can be made to wait."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.handled = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, _: Message) -> None:
        self.handled += 1
        error = self.error
        await self.gate.wait()
        if error is not None:
            raise error


def breaker(clock: FakeClock, *, failures: int = 3) -> MessageMiddleware:
    """Return a circuit breaker of 30 seconds with half of the possible spread."""
    return circuit_breaker(failures, 30, clock=clock.time, random=lambda: 0.5)


async def attempt(handler: Handler) -> BaseException | None:
    """Handle a message, and return the error."""
    try:
        await handler(message())
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the test looks at it
        return error
    return None


async def fail(handler: Handler, behind: Behind, times: int) -> None:
    """Make handlings fail."""
    behind.error = DOWN
    for _ in range(times):
        assert await attempt(handler) is DOWN


async def wait_of(handler: Handler) -> float:
    """Return how long an open circuit makes a message wait, without counting an attempt."""
    error = await attempt(handler)
    assert isinstance(error, Retry)
    assert not error.counted
    assert error.after is not None
    return error.after


async def test_the_circuit_opens_after_failures_in_a_row() -> None:
    """Then messages wait for the rest of its seconds plus a spread, and none is handled."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    await fail(handler, behind, 3)
    clock.advance(10)
    assert await wait_of(handler) == pytest.approx(20 + 1.5)
    assert behind.handled == 3


async def test_a_success_ends_the_row() -> None:
    """Only failures in a row open the circuit."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    for _ in range(3):
        await fail(handler, behind, 2)
        behind.error = None
        assert await attempt(handler) is None


@pytest.mark.parametrize(
    "error",
    [
        Reject("no cat"),
        UndecodableMessage("no JSON"),
        Retry("another is at it", counted=False),
        asyncio.CancelledError(),
        ExceptionGroup("", [Retry(counted=False), Reject("no cat")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_neutral_errors_neither_fail_nor_end_the_row(error: BaseException) -> None:
    """Reject, an undecodable body and a cancellation count neither way."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    await fail(handler, behind, 2)
    behind.error = error
    for _ in range(5):
        assert await attempt(handler) is error
    await fail(handler, behind, 1)
    assert await wait_of(handler) > 0


async def test_a_counted_retry_is_a_failure() -> None:
    """A handler that raises Retry has failed."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock, failures=1)(behind)
    behind.error = Retry("busy", after=1)
    assert await attempt(handler) is behind.error
    assert await wait_of(handler) > 1


async def test_one_trial_at_a_time_closes_the_circuit() -> None:
    """After its seconds one message is tried while the others wait; a success closes it."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    await fail(handler, behind, 3)
    clock.advance(40)
    behind.error = None
    behind.gate.clear()
    trial = asyncio.create_task(attempt(handler))
    await until(lambda: behind.handled == 4)
    assert await wait_of(handler) == pytest.approx(1.5)
    behind.gate.set()
    assert await trial is None
    assert await attempt(handler) is None
    await fail(handler, behind, 3)  # the row begins anew
    assert await wait_of(handler) == pytest.approx(30 + 1.5)
    clock.advance(30)
    behind.error = None
    assert await attempt(handler) is None


async def test_a_failed_trial_opens_the_circuit_for_as_long_again() -> None:
    """Each time, one failure is enough."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    await fail(handler, behind, 3)
    for _ in range(3):
        clock.advance(31)
        await fail(handler, behind, 1)
        assert await wait_of(handler) == pytest.approx(30 + 1.5)


@pytest.mark.parametrize("error", [Reject("no cat"), asyncio.CancelledError()], ids=repr)
async def test_a_neutral_trial_allows_another(error: BaseException) -> None:
    """The circuit is neither closed nor stuck."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    await fail(handler, behind, 3)
    clock.advance(30)
    behind.error = error
    assert await attempt(handler) is error
    await fail(handler, behind, 1)
    assert await wait_of(handler) > 30


@pytest.mark.parametrize("late", [None, DOWN], ids=["success", "failure"])
async def test_an_earlier_handling_does_not_decide(late: BaseException | None) -> None:
    """A handling that began before the circuit opened neither closes it nor keeps it open."""
    clock, behind = FakeClock(), Behind()
    handler = breaker(clock)(behind)
    behind.error = late
    slow = behind.gate = asyncio.Event()
    straggler = asyncio.create_task(attempt(handler))
    await until(lambda: behind.handled)
    behind.gate = asyncio.Event()
    behind.gate.set()
    await fail(handler, behind, 3)
    clock.advance(20)
    slow.set()
    assert await straggler is late
    assert await wait_of(handler) == pytest.approx(10 + 1.5)
    clock.advance(10)
    await fail(handler, behind, 1)
    assert await wait_of(handler) == pytest.approx(30 + 1.5)


async def test_each_handler_has_a_circuit_of_its_own() -> None:
    """One middleware around two handlers has two circuits."""
    clock, behind = FakeClock(), Behind()
    wrap = breaker(clock)
    one, other = wrap(behind), wrap(behind)
    await fail(one, behind, 3)
    behind.error = None
    assert await attempt(other) is None


async def test_an_open_circuit_costs_messages_no_attempt() -> None:
    """In a subscriber a message waits in place until the circuit closes."""
    clock = FakeClock()
    attempts = []

    async def handler(received: Message) -> None:
        attempts.append(received.attempt)
        if received.attempt == 1:
            raise DOWN

    async def sleep(seconds: float) -> None:
        clock.advance(min(seconds, 5))  # the message comes back too early
        await asyncio.sleep(0)

    async with running(
        breaker(clock, failures=1)(handler),
        retry=RetryPolicy(attempts=2),
        max_deliveries=1,
        dead_letter=True,
        sleep=sleep,
    ) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "ack")]
    assert attempts == [1, 2]
    assert bench.metric("postponed") >= 5


@pytest.mark.parametrize(("failures", "seconds"), [(0, 30), (1, 0), (1, -1)])
def test_invalid_arguments_are_rejected(failures: int, seconds: float) -> None:
    """Invalid arguments raise UsageError at the declaration."""
    with pytest.raises(UsageError, match="use 1 failure or more, and seconds above 0"):
        circuit_breaker(failures, seconds)
