"""The CPU time of a message on Kafka, beside aiokafka alone and, if installed, FastStream.

python -m benchmarks.kafka [--faststream PYTHON] [--only WORD] [--rounds 3]

Every client runs in its own process, one after the other in rounds, A B C A B C, on one core; the
broker has the other. Consumers start with a full topic. ``getmany`` is aiokafka alone: 500 records
a call, a commit every second, and nothing done with the records. gizmopy also measures, and awaits
a handler that does nothing for each message. Publishers wait for a thousand messages at a time,
each confirmed by all replicas.

A client that is measured twice shows the noise. Figures are medians; ratios are those within a
round, with the lowest and the highest.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.cpu import pinned
from benchmarks.figures import Target, spread
from benchmarks.kafka_clients import BODY, Case
from tests.pubsub.brokers.kafka.cluster import Unavailable, kafka_cluster

ROUNDS = 3
CONSUMED, PUBLISHED = 200_000, 50_000
FEW = 20_000
"""How many messages FastStream handles; it is slower."""
CLIENT_CORE, BROKER_CORE = 0, 1
BATCH_BYTES = 64 * 1024
FLAT = Target(most=1.15)
TRUST = Target(0.95, 1.05)


class Topic(NamedTuple):
    """A topic to create, and to fill if it has keys."""

    name: str
    partitions: int = 10
    keys: int = 1_000


class Row(NamedTuple):
    """A line of a table: a case, and the highest ratio to the first row that is expected."""

    name: str
    case: Case
    target: Target | None = None


Table = Sequence[Row]

PUBLISHED_TO = Topic("published", keys=0)
BASE = Topic("base")
FEW_KEYS, MANY_KEYS = Topic("few-keys", keys=10), Topic("many-keys", keys=100_000)
ONE_PARTITION, MANY_PARTITIONS = Topic("one-partition", 1), Topic("many-partitions", 256)
TOPICS = (PUBLISHED_TO, BASE, FEW_KEYS, MANY_KEYS, ONE_PARTITION, MANY_PARTITIONS)

GETMANY = Case("getmany", BASE.name, CONSUMED)
OURS = Case("gizmopy", BASE.name, CONSUMED)
BY_PARTITION = OURS._replace(order="partition")
BY_KEY = OURS._replace(concurrency=100, order="key")
SEND = Case("aiokafka send", PUBLISHED_TO.name, PUBLISHED)


def _by_partitions(case: Case) -> Table:
    return [
        Row("1 partition", case._replace(topic=ONE_PARTITION.name)),
        Row(f"{BASE.partitions} partitions", case, FLAT),
        Row("256 partitions", case._replace(topic=MANY_PARTITIONS.name), FLAT),
    ]


TABLES: dict[str, Table] = {
    "consume from 10 partitions, 1,000 keys, beside getmany": (
        Row("getmany", GETMANY),
        Row("getmany again", GETMANY, TRUST),
        Row("sequential", OURS, Target(most=1.5)),
        Row("sequential, by partition", BY_PARTITION, Target(most=1.5)),
        Row("sequential, max_in_flight=100", OURS._replace(max_in_flight=100)),
        Row("100 workers, unordered", OURS._replace(concurrency=100)),
        Row("100 workers, by key", BY_KEY, Target(most=1.9)),
        Row("FastStream", Case("FastStream", BASE.name, FEW)),
    ),
    "consume 100 workers, by key, beside 10 keys": (
        Row("10 keys", BY_KEY._replace(topic=FEW_KEYS.name)),
        Row("1,000 keys", BY_KEY, FLAT),
        Row("100,000 keys", BY_KEY._replace(topic=MANY_KEYS.name), FLAT),
    ),
    "consume sequentially, by partition, beside 1 partition": _by_partitions(BY_PARTITION),
    "consume 100 workers, by key, beside 1 partition": _by_partitions(BY_KEY),
    "consume getmany, beside 1 partition": [
        row._replace(target=None) for row in _by_partitions(GETMANY)
    ],
    "publish 1,000 at once, beside aiokafka's send in its batches of 16 KiB": (
        Row("aiokafka's send", SEND),
        Row("aiokafka's send again", SEND, TRUST),
        Row("aiokafka's send, batches of 1 MB", SEND._replace(client="aiokafka send, 1 MB")),
        Row(
            "gizmopy, batches of 128 KiB", SEND._replace(client="gizmopy publish"), Target(most=0.6)
        ),
        Row("FastStream", Case("FastStream publish", PUBLISHED_TO.name, FEW)),
    ),
}


@contextmanager
def _broker() -> Iterator[str]:
    """Run a broker on its own core, fill its topics, and yield its address."""
    with TemporaryDirectory() as folder, ExitStack() as running:
        with pinned(BROKER_CORE):
            cluster = running.enter_context(kafka_cluster(Path(folder)))
        asyncio.run(_fill_all(cluster.bootstrap))
        yield cluster.bootstrap


async def _fill_all(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(t.name, t.partitions, 1) for t in TOPICS])
    finally:
        await admin.close()
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, max_batch_size=BATCH_BYTES
    ) as producer:
        for topic in TOPICS:
            await _fill(producer, topic)


async def _fill(producer: AIOKafkaProducer, topic: Topic) -> None:
    """Publish the messages to consume, one key after the other, each in a fixed partition."""
    keys: list[list[int]] = [[] for _ in range(topic.partitions)]
    for number in range(CONSUMED if topic.keys else 0):
        key = number % topic.keys
        keys[key % topic.partitions].append(key)
    for partition, its_keys in enumerate(keys):
        batch = producer.create_batch()
        for key in its_keys:
            record = {"key": b"%06d" % key, "value": BODY, "timestamp": None}
            if batch.append(**record) is None:  # it is full
                await producer.send_batch(batch, topic.name, partition=partition)
                batch = producer.create_batch()
                batch.append(**record)
        if its_keys:
            await producer.send_batch(batch, topic.name, partition=partition)


def _run(case: Case, bootstrap: str, faststream: str) -> float:
    """Run a client, and return the CPU microseconds of a message."""
    python = faststream if "FastStream" in case.client else sys.executable
    command = (python, "-m", "benchmarks.kafka_clients", bootstrap, json.dumps(case))
    with pinned(CLIENT_CORE):
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300)
    return float(run.stdout)


def compare(table: Table, bootstrap: str, rounds: int, faststream: str) -> None:
    """Run the cases in turn, and print their costs beside that of the first."""
    costs: dict[Row, list[float]] = {row: [] for row in table}
    for _ in range(rounds):
        for row, figures in costs.items():
            figures.append(_run(row.case, bootstrap, faststream))
    for row, figures in costs.items():
        ratios = [a / b for a, b in zip(figures, costs[table[0]], strict=True)]
        verdict = "" if row.target is None else row.target.judge(ratios)
        print(f"  {row.name:<33} {median(figures):7.2f} µs   {spread(ratios)} {verdict}".rstrip())


def main(argv: Sequence[str] = ()) -> None:
    """Print the cost of a message, table by table."""
    parser = ArgumentParser("python -m benchmarks.kafka")
    parser.add_argument(
        "--faststream", default="", help="a Python that has faststream[kafka] and uvloop"
    )
    parser.add_argument("--only", default="", help="a word of the titles of the tables to print")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(argv)
    print(f"Kafka, {len(BODY):,} bytes, CPU time a message and its ratio to the first row's")
    try:
        with _broker() as bootstrap:
            for title, table in TABLES.items():
                if options.only in title:
                    print(title, flush=True)
                    rows = [row for row in table if options.faststream or row.name != "FastStream"]
                    compare(rows, bootstrap, options.rounds, options.faststream)
    except Unavailable as reason:
        print(f"not measured: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
