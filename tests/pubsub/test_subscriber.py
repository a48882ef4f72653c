"""A subscriber connects, runs and drains."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.errors import PubSubError, StartError, TopicNotFound, UsageError
from gizmopy.pubsub import Message, Status
from tests.pubsub.support import (
    PERMANENT,
    TRANSIENT,
    Bench,
    FakeReceiver,
    Gate,
    always,
    capabilities,
    held,
    lose_lease,
    message,
    nothing,
    running,
    turns,
    until,
)


async def test_transient_receive_errors_are_retried() -> None:
    """Throttling does not end the subscriber."""
    async with running(nothing) as bench:
        bench.receiver.fail_receive(TRANSIENT)
        bench.receiver.fail_receive(TRANSIENT)
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert len(bench.sleeps) == 2


@pytest.mark.parametrize("error", [PERMANENT, RuntimeError("a bug")])
async def test_other_receive_errors_end_the_subscriber(error: Exception) -> None:
    """run raises the error; running handlers are cancelled, and all messages given back."""
    gate = Gate()
    bench = Bench(gate, capabilities())
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        bench.receiver.fail_receive(error)
        with pytest.raises(type(error)) as caught:
            await task
    assert caught.value is error
    assert sorted(m.id for m, _ in bench.receiver.nacked) == ["1", "2"]
    assert not bench.receiver.acked
    assert bench.receiver.closed


async def test_an_unknown_topic_is_an_error_at_connect() -> None:
    """A permanent error of connect is raised on entering the subscriber."""
    bench = Bench(nothing, capabilities())
    bench.receiver.connects = [TopicNotFound("no queue 't'")]
    with pytest.raises(TopicNotFound):
        await bench.subscriber.__aenter__()
    await bench.subscriber.drain(0)


async def test_connecting_to_a_broker_that_is_down_is_retried() -> None:
    """A transient error of connect is retried by the engine."""
    bench = Bench(nothing, capabilities())
    bench.receiver.connects = [TRANSIENT, TRANSIENT]
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(message())
        await until(lambda: bench.settled)
        await bench.subscriber.drain(1)
        await task


async def test_order_needs_a_broker_that_keeps_it() -> None:
    """An ordered subscription to a broker without order raises StartError."""
    with pytest.raises(StartError, match=r"order='key'.*keeps order"):
        Bench(nothing, capabilities(ordering=False), order="key")


async def test_a_subscriber_runs_once() -> None:
    """A second run is a mistake, and so is one after the drain."""
    async with running(nothing) as bench:
        await turns(3)
        with pytest.raises(UsageError, match="runs only once"):
            await bench.subscriber.run()
    with pytest.raises(UsageError, match="runs only once"):
        await bench.subscriber.run()


async def test_drain_finishes_running_handlers_and_releases_the_rest() -> None:
    """Their messages are acked; the others go back at once, without delay."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.put(*(message(id=str(n)) for n in range(3)))
        await until(lambda: gate.started)
        drain = asyncio.create_task(bench.subscriber.drain(10))
        await until(lambda: len(bench.receiver.nacked) == 2)
        assert not drain.done()
        gate.open.set()
        report = await drain
    assert report == (1, 2, 0, 0)
    assert bench.outcomes == [("1", "released"), ("2", "released"), ("0", "ack")]
    assert [delay for _, delay in bench.receiver.nacked] == [0, 0]
    assert gate.started == ["0"]


async def test_drain_releases_messages_that_wait_in_a_lane() -> None:
    """A message that waits for its key has not started."""
    gate = Gate()
    async with running(gate, order="key", concurrency=2) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        drain = asyncio.create_task(bench.subscriber.drain(10))
        await until(lambda: bench.outcomes == [("2", "released")])
        gate.open.set()
        assert await drain == (1, 1, 0, 0)
    assert gate.started == ["1"]


async def test_drain_cancels_at_the_deadline_and_never_acks_cancelled_messages() -> None:
    """The message of a slow handler goes back, and has not failed."""
    gate = Gate()
    async with running(gate, max_deliveries=1, dead_letter=True) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    ((id_, outcome, error),) = bench.settled
    assert (id_, outcome) == ("1", "nack")
    assert isinstance(error, asyncio.CancelledError)
    assert not bench.receiver.acked
    assert not bench.dead


async def test_an_error_raised_during_a_cancellation_is_not_a_failure() -> None:
    """A handler that the drain cancels may raise any error."""
    started = asyncio.Event()

    async def handler(_: Message) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("closing") from None

    async with running(handler, max_deliveries=1, dead_letter=True) as bench:
        bench.receiver.put(message())
        await started.wait()
        assert await bench.subscriber.drain(0) == (0, 0, 1, 0)
    assert bench.outcomes == [("1", "nack")]
    assert not bench.dead


async def test_drain_releases_messages_that_wait_for_a_retry() -> None:
    """They go back, and are not dead-lettered."""

    async def forever(_: float) -> None:
        await asyncio.Event().wait()

    async with running(
        always(ValueError()), sleep=forever, max_deliveries=1, dead_letter=True
    ) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.metric("retries"))
        assert await bench.subscriber.drain(10) == (0, 1, 0, 0)
    assert bench.outcomes == [("1", "released")]


async def test_without_nack_unfinished_messages_are_left_to_the_broker() -> None:
    """They are neither given back nor acked."""
    gate = Gate()
    async with running(gate, capabilities(can_nack=False)) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        assert await bench.subscriber.drain(0) == (0, 1, 1, 0)
    assert not bench.receiver.acked
    assert not bench.receiver.nacked


async def test_messages_received_after_stop_receiving_are_given_back() -> None:
    """A receive that was pending may still return messages: they do not start."""
    handled = []

    async def handler(received: Message) -> None:
        handled.append(received.id)

    async with running(handler, order="key") as bench:
        await until(lambda: bench.receiver.limits)
        bench.subscriber.stop_receiving()
        bench.receiver.put(message(key="k"))
        await until(lambda: bench.settled)
    assert bench.outcomes == [("1", "released")]
    assert handled == []


async def test_a_pending_receive_is_never_cancelled() -> None:
    """The drain ends it by closing the receiver."""
    async with running(nothing) as bench:
        await until(lambda: bench.receiver.limits)
        await bench.subscriber.drain(1)
    assert bench.receiver.closed
    assert bench.receiver.cancelled_receives == 0


async def test_messages_returned_by_a_receive_after_close_are_ignored() -> None:
    """The driver gives back all messages at its close: none is started or counted."""
    handled = []

    async def handler(received: Message) -> None:
        handled.append(received.id)

    async with running(handler) as bench:
        await until(lambda: bench.receiver.limits)
        bench.receiver.at_close = [message()]
        assert await bench.subscriber.drain(1) == (0, 0, 0, 0)
    assert handled == []
    assert bench.settled == []


async def test_a_second_drain_returns_the_first_report() -> None:
    """Two calls are one drain."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        first = asyncio.create_task(bench.subscriber.drain(10))
        second = asyncio.create_task(bench.subscriber.drain(0))
        await turns()
        gate.open.set()
        assert await first == await second == (1, 0, 0, 0)


async def test_cancelling_run_drains_at_once() -> None:
    """All messages are given back, nothing is acked, and no task is left."""
    gate = Gate()
    bench = Bench(gate, capabilities())
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        bench.receiver.put(message())
        await until(lambda: gate.started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert bench.outcomes == [("1", "nack")]
    assert bench.receiver.closed
    assert bench.receiver.cancelled_receives == 0


async def test_unconfirmed_settles_are_part_of_the_report() -> None:
    """The report counts handled messages that the broker will deliver again."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.ack_errors = [PERMANENT]
        bench.receiver.put(message())
        await until(lambda: gate.started)
        gate.open.set()
        assert (await bench.subscriber.drain(10)).failed_to_settle == 1


class _Queue(FakeReceiver):
    """A queue in this process that has another consumer too."""

    backlog = 1

    def status(self) -> Status:
        return Status(backlog=self.backlog)

    async def aclose(self) -> None:
        await super().aclose()
        raise RuntimeError("a bug")


async def test_idle_notices_that_another_subscriber_emptied_the_queue() -> None:
    """The last message need not be settled here."""
    receiver = _Queue()
    async with running(nothing, receiver=receiver) as bench:
        idle = asyncio.create_task(bench.subscriber.idle())
        await turns()
        assert not idle.done()
        receiver.backlog = 0
        async with asyncio.timeout(5):
            await idle


async def test_a_drain_of_a_local_queue_ends_with_the_engine() -> None:
    """If the engine fails while its queue is emptied, the drain does not wait for the deadline."""
    receiver = _Queue()
    bench = Bench(nothing, capabilities(process_local=True), receiver=receiver)
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        drain = asyncio.create_task(bench.subscriber.drain(60))
        await until(lambda: receiver.limits)
        receiver.fail_receive(PERMANENT)
        async with asyncio.timeout(5):
            await drain
            with pytest.raises(PubSubError, match="lease is over"):
                await task


async def test_a_drain_after_stop_receiving_does_not_wait_for_the_queue() -> None:
    """Nothing would empty it: its messages are reported at once."""
    receiver = _Queue()
    async with running(nothing, capabilities(process_local=True), receiver=receiver) as bench:
        await until(lambda: receiver.limits)
        bench.subscriber.stop_receiving()
        async with asyncio.timeout(5):
            assert await bench.subscriber.drain(60) == (0, 1, 0, 0)


async def test_a_drain_that_was_cancelled_can_be_repeated() -> None:
    """The second drain continues the first, and counts no message twice."""
    gate, receiver = Gate(), _Queue()
    async with running(gate, capabilities(process_local=True), receiver=receiver) as bench:
        receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        bench.subscriber.stop_receiving()
        first = asyncio.create_task(bench.subscriber.drain(0.01))
        await until(lambda: ("2", "released") in bench.outcomes)
        first.cancel()
        await asyncio.wait([first])
        receiver.backlog = 7  # includes the message that the first drain gave back
        assert await bench.subscriber.drain(0) == (0, 2, 1, 0)


async def test_an_engine_ends_if_closing_its_receiver_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is logged."""
    receiver = _Queue()
    async with running(nothing, receiver=receiver):
        await until(lambda: receiver.limits)
    assert "closing the receiver of t/s failed: RuntimeError: a bug" in caplog.text


class _ClosesBadly(FakeReceiver):
    async def aclose(self) -> None:
        await super().aclose()
        raise asyncio.CancelledError


async def test_an_engine_ends_if_closing_its_receiver_raises_cancelled_error() -> None:
    """A driver may await a task of its own that it has cancelled."""
    bench = Bench(nothing, capabilities(), receiver=_ClosesBadly())
    async with bench.subscriber:
        task = asyncio.create_task(bench.subscriber.run())
        await until(lambda: bench.receiver.limits)
        try:
            report = await bench.subscriber.drain(0)
        except asyncio.CancelledError:
            report = None
        done, _ = await asyncio.wait([task], timeout=1)
        task.cancel()
        assert (report, bool(done)) == ((0, 0, 0, 0), True)


async def test_a_drain_reports_only_its_own_releases() -> None:
    """Successors of a message lost before the drain were released before it."""
    gate = Gate()
    async with running(gate, order="key") as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        await until(lambda: len(bench.settled) == 2)
        gate.open.set()
        assert await bench.subscriber.drain(1) == (0, 0, 0, 0)
