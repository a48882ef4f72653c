"""Cases of a cluster of three nodes that fail under load."""

from __future__ import annotations

import asyncio
from itertools import cycle
from time import monotonic

from tests.endurance.http.clients import ask, request
from tests.endurance.kafka.scene import Scene, scene
from tests.endurance.kafka.verdict import Counts, Handling, out_of_order
from tests.pubsub.brokers.kafka.cluster import Cluster

_NODES = (1, 2, 3)
DOWN = 4.0
"""Seconds that a node is down."""
UP = 4.0
"""Seconds until the next one dies."""
_NOTICED_SECONDS = 10.0
"""How long a daemon may take to notice the outage (docs/kafka.md)."""
_RATE = 200


async def nodes_die(cluster: Cluster, seconds: float) -> Counts:
    """Kill and start one node after the other for ``seconds``; the daemons go on.

    No confirmed message is lost, and the first handlings of each key are in order.
    """
    finding = Counts(counts={"nodes died": 0})
    async with scene(cluster, "Ordered", partitions=6) as here:
        until = monotonic() + seconds
        async with here.load.running(_RATE):
            await _two_join(here)
            await asyncio.sleep(2)
            for node in cycle(_NODES):
                await asyncio.to_thread(cluster.kill, node)
                await asyncio.sleep(DOWN)
                await asyncio.to_thread(cluster.start, node)
                finding.counts["nodes died"] += 1
                await asyncio.sleep(UP)
                if monotonic() > until:
                    break
        await _finish(here, finding)
    return finding


async def all_nodes_down(cluster: Cluster, seconds: float) -> Counts:
    """Kill all nodes for ``seconds``: the daemons become unready, and recover by themselves."""
    finding = Counts()
    async with scene(cluster, "Ordered", partitions=6) as here:
        async with here.load.running(_RATE):
            await _two_join(here)
            await asyncio.sleep(2)
            await asyncio.gather(*(asyncio.to_thread(cluster.kill, node) for node in _NODES))
            killed = monotonic()
            await asyncio.sleep(seconds)
            down = await _readiness_by(here, killed + _NOTICED_SECONDS)
            await asyncio.gather(*(asyncio.to_thread(cluster.start, node) for node in _NODES))
            back = monotonic()
            await asyncio.sleep(2)
            up = await _readiness(here)
        handlings = await _finish(here, finding)
    finding.require(down == [503, 503], f"readiness while all nodes are down: {down}")
    finding.require(up == [200, 200], f"readiness once they are back: {up}")
    again = min((each.started for each in handlings if each.started > back), default=back + 999)
    finding.counts["s until handled again"] = round(again - back, 1)
    return finding


async def _two_join(here: Scene) -> None:
    await here.members.join()
    await here.members.join()


async def _readiness(here: Scene) -> list[int]:
    """Return the status of each daemon's /readyz."""
    asked = request("GET", "/readyz")
    return [(await ask(member.port, asked)).status for member in here.members.alive.values()]


async def _readiness_by(here: Scene, deadline: float) -> list[int]:
    """Return the statuses once all daemons are unready, or those at the deadline."""
    down = await _readiness(here)
    while down != [503, 503] and monotonic() < deadline:
        await asyncio.sleep(0.5)
        down = await _readiness(here)
    return down


async def _finish(here: Scene, finding: Counts) -> list[Handling]:
    handlings = await here.finish(finding, within=90)
    finding.require_none("out of order", out_of_order(handlings))
    finding.counts["tried again"] = here.load.failures.total()
    places = {(each.partition, each.offset) for each in handlings}
    finding.counts["published twice"] = int(len(places) - finding.counts["handled"])
    return handlings
