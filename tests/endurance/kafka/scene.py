"""The setting of a case: a topic, a publisher, a group of daemons, and the broker's view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from gizmopy.pubsub.registry import provision
from tests.endurance.kafka.broker import Broker, broker
from tests.endurance.kafka.group import Group, group
from tests.endurance.kafka.load import Load, keys, load
from tests.endurance.kafka.verdict import Counts, Handling, judge
from tests.pubsub.brokers.kafka.cluster import Cluster


@dataclass
class Scene:
    """The parts of a case."""

    topic: str
    names: list[str]
    """The keys; each partition has the same number of them."""
    load: Load
    members: Group
    broker: Broker

    async def finish(self, finding: Counts, within: float = 60.0) -> list[Handling]:
        """Wait until all is handled, end the daemons, judge, and return their records."""
        behind = await self.broker.handled(within)
        finding.require(not behind, f"not committed {within:g} s after the end: {behind}")
        finding.problems += self.load.problems + await self.members.leave_all()
        handlings = await asyncio.to_thread(self.members.handlings)
        judge(finding, self.load.published, handlings, self.broker.commits)
        return handlings


@asynccontextmanager
async def scene(
    cluster: Cluster,
    service: str,
    *,
    partitions: int,
    parameters: str = "session_timeout=6s",
    keys_each: int = 16,
    work: float = 0.02,
    **environment: str,
) -> AsyncIterator[Scene]:
    """Create a topic for a case, and watch its commits.

    The daemons consume it with ``parameters`` in the driver's URL. Handling a message of the load
    takes up to ``work`` seconds.
    """
    topic = f"cats-{uuid4().hex[:8]}"
    given = {
        "GIZMO_PUBSUB_URL": f"{cluster.url}?{parameters}",
        "GIZMO_TOPIC_CATS": f"{cluster.url}/{topic}?group={topic}&{parameters}",
    }
    names = keys(partitions, keys_each)
    with TemporaryDirectory(prefix=f"{topic}-") as folder:
        async with (
            provision(f"{cluster.url}?partitions={partitions}", topic),
            broker(cluster.bootstrap, topic, group=topic) as seen,
            load(cluster.url, topic, names, work) as publisher,
            group(Path(folder), service, given | environment) as members,
            seen.watch(),
        ):
            yield Scene(topic, names, publisher, members, seen)
