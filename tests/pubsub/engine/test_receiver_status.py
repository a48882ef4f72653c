"""What a receiver tells of itself without being asked to receive: where that is to be seen."""

from __future__ import annotations

from gizmopy.pubsub import Status
from tests.pubsub.support import Bench, FakeReceiver, capabilities, nothing, running, until


class Telling(FakeReceiver):
    """Tell what the test says."""

    now = Status()

    def status(self) -> Status:
        return self.now


def gauge(bench: Bench, name: str) -> float:
    """Return a gauge as it is now."""
    bench.subscriber.measure()
    return bench.metrics.gauge(f"gizmo_pubsub_{name}", "").child("t", "s").value


async def test_a_problem_of_the_receiver_is_one_of_the_subscriber() -> None:
    """Also while a receive waits in peace, which tells of none; and no longer than it lasts."""
    receiver = Telling()
    async with running(nothing, receiver=receiver) as bench:
        await until(lambda: receiver.limits)
        assert bench.subscriber.problem == ""
        receiver.now = Status(problem="the coordinator is not reached")
        assert bench.subscriber.problem == "the coordinator is not reached"
        assert bench.subscriber.stall == ""
        receiver.now = Status()
        assert bench.subscriber.problem == ""


def test_how_many_partitions_are_assigned_is_measured() -> None:
    """None are where the broker has none, or no longer any for this receiver."""
    receiver = Telling()
    bench = Bench(nothing, capabilities(positions=True), receiver=receiver)
    assert gauge(bench, "assigned_partitions") == 0
    receiver.now = Status(assigned=3)
    assert gauge(bench, "assigned_partitions") == 3
    receiver.now = Status(assigned=0)
    assert gauge(bench, "assigned_partitions") == 0
