"""Cases of a group whose members join and leave under load."""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from tests.endurance.kafka.scene import Scene, scene
from tests.endurance.kafka.verdict import Counts, Kill, explain, oldest_uncommitted, out_of_order
from tests.pubsub.brokers.kafka.cluster import Cluster

_RATE = 400
"""Messages a second."""
_MOST = 4
"""The most members at a time."""
_COMMIT = 1.0
"""The driver's default commit interval, in seconds."""
_SLACK = 2.0
"""How late a commit may be on a busy machine."""


async def rebalance_storm(cluster: Cluster, seconds: float) -> Counts:
    """Members join, leave (SIGTERM) and die (SIGKILL) every few seconds, for ``seconds``.

    Nothing is lost, and the first handlings of each key are in order. A message is repeated only if
    it was handled above a gap, or by a killed member above its commit. That commit is recent.
    """
    finding = Counts()
    async with scene(cluster, "Ordered", partitions=24) as here:
        storm = _Storm(here, finding)
        async with here.load.running(_RATE):
            await storm.run(seconds)
        handlings = await here.finish(finding)
    finding.require_none("out of order", out_of_order(handlings))
    explain(finding, handlings, storm.kills)
    age = oldest_uncommitted(storm.kills, handlings)
    finding.counts["oldest commit due, s"] = round(age, 2)
    finding.require(age < _COMMIT + _SLACK, f"a commit was due for {age:.1f} s at a kill")
    return finding


class _Storm:
    """Change a group at random, the same way each time."""

    def __init__(self, here: Scene, finding: Counts) -> None:
        self.kills: list[Kill] = []
        self._here = here
        self._finding = finding
        self._random = random.Random(4)
        finding.counts |= {"joined": 0, "left": 0, "died": 0}

    async def run(self, seconds: float) -> None:
        """Change the group every few seconds; it always has a member."""
        until = monotonic() + seconds
        await self._join()
        while monotonic() < until:
            alive = len(self._here.members.alive)
            changes = [self._join] * (alive < _MOST) + [self._leave, self._die] * (alive > 1)
            await self._random.choice(changes)()
            await asyncio.sleep(self._random.uniform(0.5, 3))

    async def _join(self) -> None:
        await self._here.members.join()
        self._finding.counts["joined"] += 1

    async def _leave(self) -> None:
        name = self._any()
        ended = await self._here.members.leave(name)
        self._finding.require(ended.code == 0, f"{name}: exit code {ended.code}, not 0")
        self._finding.counts["left"] += 1

    async def _die(self) -> None:
        name = self._any()
        await self._here.members.die(name)
        self.kills.append(Kill(name, await self._here.broker.commit()))
        self._finding.counts["died"] += 1

    def _any(self) -> str:
        return self._random.choice(sorted(self._here.members.alive))
