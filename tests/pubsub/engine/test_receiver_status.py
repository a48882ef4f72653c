"""The status of a receiver: how the subscriber reports it."""

from __future__ import annotations

from gizmopy.pubsub import Status
from tests.pubsub.support import Bench, FakeReceiver, capabilities, nothing, running, until


class StatusReceiver(FakeReceiver):
    """Has the status that the test sets."""

    now = Status()

    def status(self) -> Status:
        return self.now


def gauge(bench: Bench, name: str) -> float:
    """Return the current value of a gauge."""
    bench.subscriber.measure()
    return bench.metrics.gauge(f"gizmo_pubsub_{name}", "").child("t", "s").value


async def test_a_problem_of_the_receiver_is_a_problem_of_the_subscriber() -> None:
    """Also while a receive waits normally; and no longer than it lasts."""
    receiver = StatusReceiver()
    async with running(nothing, receiver=receiver) as bench:
        await until(lambda: receiver.limits)
        assert bench.subscriber.problem == ""
        receiver.now = Status(problem="the coordinator is not reached")
        assert bench.subscriber.problem == "the coordinator is not reached"
        assert bench.subscriber.stall == ""
        receiver.now = Status()
        assert bench.subscriber.problem == ""


def test_the_number_of_assigned_partitions_is_measured() -> None:
    """It is 0 if the broker has no partitions, or this receiver no longer has one."""
    receiver = StatusReceiver()
    bench = Bench(nothing, capabilities(positions=True), receiver=receiver)
    assert gauge(bench, "assigned_partitions") == 0
    receiver.now = Status(assigned=3)
    assert gauge(bench, "assigned_partitions") == 3
    receiver.now = Status(assigned=0)
    assert gauge(bench, "assigned_partitions") == 0
