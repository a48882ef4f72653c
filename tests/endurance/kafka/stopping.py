"""Cases of a daemon that is stopped by SIGTERM under load, and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from time import monotonic

from tests.endurance.kafka.scene import scene
from tests.endurance.kafka.service import Cat
from tests.endurance.kafka.verdict import Counts, Handling, Kill, explain, out_of_order, uncommitted
from tests.pubsub.brokers.kafka.cluster import Cluster

_LIFE = 1.5
"""Seconds that a daemon lives under load."""
_CANCELLED = 70
"""The exit code if the time to drain was too short."""


async def restarts_one_at_a_time(cluster: Cluster, seconds: float) -> Counts:
    """Restart a daemon of concurrency 1 for ``seconds``: no message is repeated."""
    finding = await _restarts(cluster, "Single", seconds)
    finding.require(not finding.counts["duplicates"], "messages were handled twice")
    return finding


async def restarts_many_at_a_time(cluster: Cluster, seconds: float) -> Counts:
    """Restart a daemon that handles many at a time: it repeats only messages above a gap."""
    return await _restarts(cluster, "Ordered", seconds)


async def _restarts(cluster: Cluster, service: str, seconds: float) -> Counts:
    finding = Counts(counts={"restarts": 0})
    until = monotonic() + seconds
    async with scene(cluster, service, partitions=4, work=0.01) as here:
        async with here.load.running(rate=150):
            while monotonic() < until:
                name, _ = await here.members.join()
                await asyncio.sleep(_LIFE)
                ended = await here.members.leave(name)
                finding.require(ended.code == 0, f"{name}: exit code {ended.code}, not 0")
                finding.counts["restarts"] += 1
        await here.members.join()
        handlings = await here.finish(finding)
    finding.require_none("out of order", out_of_order(handlings))
    explain(finding, handlings)
    return finding


async def stopped_above_unfinished(cluster: Cluster, _: float) -> Counts:
    """A drain that is too short repeats exactly the messages that finished above a gap."""
    finding = Counts()
    async with scene(cluster, "Ordered", partitions=4, GIZMO_SHUTDOWN_TIMEOUT="1s") as here:
        name, first = await here.members.join()
        await here.load.send(Cat(name="slow", number=1, seconds=60))
        await first.logged("slow 1 is slow")
        async with here.load.running(rate=300):
            await asyncio.sleep(2 * _LIFE)
            ended = await here.members.leave(name)
        finding.require(ended.code == _CANCELLED, f"exit code {ended.code}, not {_CANCELLED}")
        stopped = Kill(name, await here.broker.commit())
        before = here.members.handlings()
        await here.members.join(STORM_MOST_WORK="0.01")
        handlings = await here.finish(finding)
    finding.require(
        dict(stopped.commit.offsets) == _low_water(before, 4),
        "the commit is not the low-water mark",
    )
    above = len(uncommitted(stopped, before))
    finding.require(above > 0, "nothing had finished above the unfinished one")
    finding.require(finding.counts["duplicates"] == above, f"{above} had finished above it")
    finding.require_none("out of order", out_of_order(handlings))
    explain(finding, handlings)
    return finding


def _low_water(handlings: Iterable[Handling], partitions: int) -> dict[int, int]:
    """Return for each partition the first offset that is not handled."""
    handled = {(each.partition, each.offset) for each in handlings}
    return {
        partition: next(offset for offset in count() if (partition, offset) not in handled)
        for partition in range(partitions)
    }
