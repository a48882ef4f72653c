"""Cases of one daemon: messages that fail, that take long, and that come in a new partition."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from subprocess import PIPE, STDOUT
from time import monotonic
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from gizmopy.pubsub.registry import provision
from tests.endurance.http.daemon import ROOT
from tests.endurance.kafka.broker import broker
from tests.endurance.kafka.scene import scene
from tests.endurance.kafka.service import Cat
from tests.endurance.kafka.verdict import Counts, Handling, out_of_order
from tests.pubsub.brokers.kafka.cluster import Cluster

_KEYS = 20
_POISON = 3
"""The number of the message of each key that always fails."""
_LAST = 6


async def poison(cluster: Cluster, _: float) -> Counts:
    """Messages that always fail are dead-lettered, their successors handled, and they come back."""
    finding = Counts()
    dead = f"dead-{uuid4().hex[:8]}"
    dead_url = f"{cluster.url}/{dead}"
    async with provision(f"{cluster.url}?partitions=4", dead):
        async with (
            scene(cluster, "Careful", partitions=4, GIZMO_TOPIC_DEAD_CATS=dead_url) as here,
            broker(cluster.bootstrap, dead, group="redrive") as dead_letters,
        ):
            await here.members.join()
            for number in range(1, _LAST + 1):
                cats = [Cat(name=name, number=number) for name in here.names[:_KEYS]]
                for cat in cats:
                    cat.poison = number == _POISON
                await asyncio.gather(*map(here.load.send, cats))
            finding.require(
                not await here.broker.handled(within=30), "some messages were not committed"
            )
            dead_count = sum((await dead_letters.ends()).values())
            finding.require(dead_count == _KEYS, f"{dead_count} dead letters, not {_KEYS}")
            before = here.members.handlings()
            finding.require(len(before) == _KEYS * (_LAST - 1), f"{len(before)} handled before")
            report = await _redrive(cluster, here.topic, dead)
            expected = f"{_KEYS} redriven, 0 left, 0 failed"
            finding.require(expected in report, f"gizmopy redrive reports: {report}")
            handlings = await here.finish(finding)
    finding.counts |= {"dead letters": dead_count}
    finding.require(not finding.counts["duplicates"], "messages were handled twice")
    late = {each.number for each in out_of_order(handlings)}
    finding.require(late == {_POISON + 1}, f"out of order: the numbers {late}")
    return finding


async def _redrive(cluster: Cluster, topic: str, dead: str) -> str:
    """Run ``gizmopy redrive`` and return its output; channels are named like topics."""
    redrive = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gizmopy", "redrive", dead, "--from-topic", topic),
        *("--wait", "3"),
        env={"PATH": os.environ["PATH"], "GIZMO_PUBSUB_URL": cluster.url},
        cwd=ROOT,
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await redrive.communicate()
    return output.decode()


async def partition_added(cluster: Cluster, seconds: float) -> Counts:
    """Messages in partitions that are added while the daemon runs are handled, the first too.

    They are published as soon as the partitions exist, before the daemon can know them.
    """
    finding = Counts()
    parameters = "session_timeout=6s&metadata_max_age=2s"
    async with scene(cluster, "Ordered", partitions=2, parameters=parameters) as here:
        await here.members.join()
        async with here.load.running(rate=100):
            await asyncio.sleep(2)
        await here.broker.add_partitions(4)
        async with _producer(cluster) as producer:
            until, number = monotonic() + seconds, 0
            while monotonic() < until:
                number += 1
                for partition in (2, 3):
                    cat = Cat(name=f"new-{partition}", number=number)
                    await _send(producer, here.topic, partition, cat)
                    here.load.published[cat.name] = number
                await asyncio.sleep(0.01)
        handlings = await here.finish(finding)
    finding.counts["in new partitions"] = sum(each.partition > 1 for each in handlings)
    finding.require(not finding.counts["duplicates"], "messages were handled twice")
    finding.require_none("out of order", out_of_order(handlings))
    return finding


@asynccontextmanager
async def _producer(cluster: Cluster) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, cat: Cat) -> None:
    body = cat.model_dump_json().encode()
    await producer.send_and_wait(topic, body, key=cat.name.encode(), partition=partition)


async def slow_handler(cluster: Cluster, seconds: float) -> Counts:
    """A handler of ``seconds`` keeps its membership, and delays only its key.

    The session is a fraction of that, and there is no limit of time between two polls. The limit of
    messages that its partition is received ahead is higher than the load.
    """
    finding = Counts()
    parameters = "session_timeout=5s&partition_ahead=100000"
    async with scene(cluster, "Ordered", partitions=4, parameters=parameters) as here:
        await here.members.join()
        await here.members.join()
        slow = here.names[0]
        await here.load.send(Cat(name=slow, number=1, seconds=seconds))
        before = await here.broker.members()
        others = [name for name in here.names if name != slow]
        async with here.load.running(rate=100, names=others):
            await asyncio.sleep(seconds - 1)
        after = await here.broker.members()
        await here.load.send(Cat(name=slow, number=2))
        handlings = await here.finish(finding)
    finding.require(len(before) == 2, f"{len(before)} members at the start")
    finding.require(before == after, f"the members have changed: {before}, {after}")
    finding.require(not finding.counts["duplicates"], "messages were handled twice")
    finding.require_none("out of order", out_of_order(handlings))
    _require_neighbours(finding, handlings, slow)
    return finding


def _require_neighbours(finding: Counts, handlings: Sequence[Handling], slow: str) -> None:
    """Require that the other keys were handled all the time, in each partition."""
    (long,) = (each for each in handlings if (each.key, each.number) == (slow, 1))
    finding.counts["handled meanwhile"] = 0
    for partition in range(4):
        starts = [
            each.started
            for each in handlings
            if each.partition == partition and long.started < each.started < long.ended
        ]
        times = [long.started, *sorted(starts), long.ended]
        pause = max(later - earlier for earlier, later in pairwise(times))
        finding.counts["handled meanwhile"] += len(starts)
        finding.require(pause < 3, f"partition {partition} stood still for {pause:.1f} s")
