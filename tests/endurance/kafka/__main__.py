"""Prove on a real Kafka that daemons lose nothing and keep the order of keys.

python -m tests.endurance.kafka [--minutes M] [CASE …]

Runs all cases, or the named ones, on nodes that it starts, and prints the figures of each. The exit
code is 1 if a case failed. A long case takes ``--minutes`` (default 10).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import NamedTuple

from tests.endurance.kafka import broker_outage, handling, starting, stopping, storm
from tests.endurance.kafka.verdict import Counts
from tests.pubsub.brokers.kafka.cluster import Cluster, kafka_cluster


class Case(NamedTuple):
    """A case, the number of its nodes, and the part of the minutes that it lasts."""

    run: Callable[[Cluster, float], Awaitable[Counts]]
    nodes: int
    share: float


CASES = (
    Case(starting.topic_missing, 1, 0),
    Case(starting.broker_away, 1, 1 / 20),
    Case(starting.cats_by_a_url, 1, 0),
    Case(handling.poison, 1, 0),
    Case(handling.partition_added, 1, 1 / 60),
    Case(stopping.restarts_one_at_a_time, 1, 1 / 10),
    Case(stopping.restarts_many_at_a_time, 1, 1 / 10),
    Case(stopping.stopped_above_unfinished, 1, 0),
    Case(handling.slow_handler, 1, 1),
    Case(storm.rebalance_storm, 1, 1),
    Case(broker_outage.all_nodes_down, 3, 1 / 20),
    Case(broker_outage.nodes_die, 3, 1 / 2),
)


async def _prove(case: Case, cluster: Cluster, seconds: float) -> bool:
    """Run a case, print its figures, and return whether it has no problem."""
    begun = monotonic()
    try:
        finding = await case.run(cluster, case.share * seconds)
    except Exception as error:  # noqa: BLE001 - reported; the other cases run
        finding = Counts([f"{type(error).__name__}: {error}"])
    figures = ", ".join(f"{name} {figure:,}" for name, figure in finding.counts.items())
    verdict = "FAILED" if finding.problems else "ok"
    name = case.run.__name__
    print(f"{name:<25} {verdict:<6} {monotonic() - begun:5.0f} s  {figures}", flush=True)
    for problem in finding.problems:
        print(f"    {problem}", flush=True)
    return not finding.problems


def _chosen(arguments: Sequence[str]) -> tuple[list[Case], float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = {case.run.__name__: case for case in CASES}
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)g")
    parser.add_argument("case", nargs="*", help="one of " + ", ".join(names))
    chosen = parser.parse_args(arguments)
    for name in chosen.case:
        if name not in names:
            parser.error(f"{name!r} is no case; name one of {', '.join(names)}")
    return [names[name] for name in chosen.case] or list(CASES), chosen.minutes * 60


def main(arguments: Sequence[str]) -> int:
    """Run the cases, and return 1 if one failed."""
    cases, seconds = _chosen(arguments)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs each retry in an outage
    failed = 0
    for nodes in sorted({case.nodes for case in cases}):
        with TemporaryDirectory() as folder, kafka_cluster(Path(folder), nodes) as cluster:
            for case in cases:
                if case.nodes == nodes:
                    failed += not asyncio.run(_prove(case, cluster, seconds))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
