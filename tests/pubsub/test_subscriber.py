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


async def test_transient_receive_errors_are_tried_again() -> None:
    """Throttling does not end the subscriber."""
    async with running(nothing) as bench:
        bench.receiver.fail_receive(TRANSIENT)
        bench.receiver.fail_receive(TRANSIENT)
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert len(bench.sleeps) == 2


@pytest.mark.parametrize("error", [PERMANENT, RuntimeError("a bug")])
async def test_other_receive_errors_end_the_subscriber(error: Exception) -> None:
    """run raises the error; what was being handled is cancelled and given back."""
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
    """A permanent error of connect is raised where the subscriber is entered."""
    bench = Bench(nothing, capabilities())
    bench.receiver.connects = [TopicNotFound("no queue 't'")]
    with pytest.raises(TopicNotFound):
        await bench.subscriber.__aenter__()
    await bench.subscriber.drain(0)


async def test_a_broker_that_is_down_at_start_is_tried_again() -> None:
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
    """An ordered subscription to a broker without order is refused, not half kept."""
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


async def test_drain_finishes_the_started_and_releases_the_rest() -> None:
    """The started are waited for and acked; the unstarted go back at once, without delay."""
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


async def test_drain_releases_what_waits_in_a_lane() -> None:
    """A message that waits for its key's turn is not started: it goes back."""
    gate = Gate()
    async with running(gate, order="key", concurrency=2) as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        drain = asyncio.create_task(bench.subscriber.drain(10))
        await until(lambda: bench.outcomes == [("2", "released")])
        gate.open.set()
        assert await drain == (1, 1, 0, 0)
    assert gate.started == ["1"]


async def test_drain_cancels_at_the_deadline_and_never_acks_what_it_cancelled() -> None:
    """A handler that is too slow is cancelled; its message goes back and is no failure."""
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


async def test_a_handler_that_turns_its_cancellation_into_an_error_is_no_failure() -> None:
    """What a handler raises while it is cancelled by the drain is not held against its message."""
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


async def test_a_retry_that_waits_at_the_drain_is_released() -> None:
    """A failed message that waits to be tried again goes back; it is not failed for good."""

    async def forever(_: float) -> None:
        await asyncio.Event().wait()

    async with running(
        always(ValueError()), sleep=forever, max_deliveries=1, dead_letter=True
    ) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.metric("retries"))
        assert await bench.subscriber.drain(10) == (0, 1, 0, 0)
    assert bench.outcomes == [("1", "released")]


async def test_without_nack_the_unfinished_is_left_to_the_broker() -> None:
    """Where nothing can be given back, nothing is acked either."""
    gate = Gate()
    async with running(gate, capabilities(can_nack=False)) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        assert await bench.subscriber.drain(0) == (0, 1, 1, 0)
    assert not bench.receiver.acked
    assert not bench.receiver.nacked


async def test_what_arrives_after_stop_receiving_is_given_back() -> None:
    """A receive that was pending may still bring messages: they are not started."""
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
    """Draining ends it by closing the receiver."""
    async with running(nothing) as bench:
        await until(lambda: bench.receiver.limits)
        await bench.subscriber.drain(1)
    assert bench.receiver.closed
    assert bench.receiver.cancelled_receives == 0


async def test_what_a_receive_brings_as_it_is_closed_is_the_brokers_again() -> None:
    """The driver gives back what it holds at its close: none of it is started or counted."""
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
    """Draining twice is one drain."""
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
    """A job that is cancelled gives back what it holds, acks nothing, and leaves no task."""
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


async def test_what_the_broker_does_not_confirm_at_the_drain_is_reported() -> None:
    """The report counts the handled messages that will come again."""
    gate = Gate()
    async with running(gate) as bench:
        bench.receiver.ack_errors = [PERMANENT]
        bench.receiver.put(message())
        await until(lambda: gate.started)
        gate.open.set()
        assert (await bench.subscriber.drain(10)).failed_to_settle == 1


class _Queue(FakeReceiver):
    """A queue in this process of which others take messages too."""

    backlog = 1

    def status(self) -> Status:
        return Status(backlog=self.backlog)

    async def aclose(self) -> None:
        await super().aclose()
        raise RuntimeError("a bug")


async def test_a_queue_that_others_empty_is_noticed() -> None:
    """Who waits for a shared queue to be empty need not be who settles its last message."""
    receiver = _Queue()
    async with running(nothing, receiver=receiver) as bench:
        idle = asyncio.create_task(bench.subscriber.idle())
        await turns()
        assert not idle.done()
        receiver.backlog = 0
        async with asyncio.timeout(5):
            await idle


async def test_a_drain_of_a_local_queue_ends_with_the_engine() -> None:
    """An engine that dies while its queue is being emptied does not use up the deadline."""
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


async def test_who_receives_no_more_does_not_wait_for_the_queue() -> None:
    """After stop_receiving nothing would empty it: the drain reports it at once."""
    receiver = _Queue()
    async with running(nothing, capabilities(process_local=True), receiver=receiver) as bench:
        await until(lambda: receiver.limits)
        bench.subscriber.stop_receiving()
        async with asyncio.timeout(5):
            assert await bench.subscriber.drain(60) == (0, 1, 0, 0)


async def test_a_drain_that_was_cancelled_can_be_done_again() -> None:
    """The second drain goes on where the first was stopped, and counts nothing twice."""
    gate, receiver = Gate(), _Queue()
    async with running(gate, capabilities(process_local=True), receiver=receiver) as bench:
        receiver.put(message(id="1"), message(id="2"))
        await until(lambda: gate.started)
        bench.subscriber.stop_receiving()
        first = asyncio.create_task(bench.subscriber.drain(0.01))
        await until(lambda: ("2", "released") in bench.outcomes)
        first.cancel()
        await asyncio.wait([first])
        receiver.backlog = 7  # among them what the first has given back
        assert await bench.subscriber.drain(0) == (0, 2, 1, 0)


async def test_an_engine_ends_whatever_the_close_of_its_receiver_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A driver that fails to close is logged; it leaves nobody waiting."""
    receiver = _Queue()
    async with running(nothing, receiver=receiver):
        await until(lambda: receiver.limits)
    assert "closing the receiver of t/s failed: RuntimeError: a bug" in caplog.text


class _ClosesBadly(FakeReceiver):
    async def aclose(self) -> None:
        await super().aclose()
        raise asyncio.CancelledError


async def test_an_engine_ends_though_its_receiver_is_closed_by_a_cancellation() -> None:
    """A driver that awaits a task of its own which it has cancelled is no reason to hang."""
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


async def test_a_drain_reports_what_it_has_released_itself() -> None:
    """Followers of a message that was lost before the drain were not released by it."""
    gate = Gate()
    async with running(gate, order="key") as bench:
        bench.receiver.put(message(id="1", key="k"), message(id="2", key="k"))
        await until(lambda: gate.started)
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        await until(lambda: len(bench.settled) == 2)
        gate.open.set()
        assert await bench.subscriber.drain(1) == (0, 0, 0, 0)
