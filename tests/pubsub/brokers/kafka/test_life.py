"""Short runs of the cases of tests.endurance.kafka, and tests of their verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.endurance.kafka import handling, starting, stopping, storm
from tests.endurance.kafka.verdict import (
    Commit,
    Counts,
    Handling,
    Kill,
    explain,
    judge,
    oldest_uncommitted,
    out_of_order,
    parse,
)
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.life_support import Case, require_no_problem

# The verdict, on invented records of one key in one partition.


def handled(number: int, at: float, member: str = "a") -> Handling:
    """Return a handling of message ``number``, whose offset is one less, that takes a second."""
    return Handling(member, 0, 0, number - 1, "k", number, 1, at, at + 1)


def problems(
    handlings: Sequence[Handling], commits: Sequence[Commit] = (), kills: Sequence[Kill] = ()
) -> list[str]:
    """Return the kinds of problems in records of three confirmed messages."""
    finding = Counts()
    judge(finding, {"k": 3}, handlings, commits)
    finding.require_none("out of order", out_of_order(handlings))
    explain(finding, handlings, kills)
    return [problem.partition(":")[0] for problem in finding.problems]


GOOD = [handled(1, at=1), handled(2, at=2), handled(3, at=3)]


def test_the_verdict_has_no_problem_if_all_is_well() -> None:
    """Each message is handled once, in order, above the commits."""
    assert problems(GOOD, [Commit(0.5, {0: 0}), Commit(2.5, {0: 1})]) == []


def test_the_verdict_reads_the_records_of_a_member() -> None:
    """A line of the records becomes a handling."""
    assert parse("a", ["0 0 2 k 3 1 3.0 4.0"]) == [handled(3, at=3)]


def test_the_verdict_finds_lost_messages() -> None:
    """A message that was confirmed and never handled is lost."""
    assert problems(GOOD[:2]) == ["1 lost"]


def test_the_verdict_finds_handlings_out_of_order() -> None:
    """A first handling that starts before its predecessor's has ended is out of order."""
    assert problems([handled(1, at=1), handled(3, at=2), handled(2, at=3)]) == ["1 out of order"]
    assert problems([handled(1, at=1), handled(2, at=1.5), handled(3, at=3)]) == ["1 out of order"]


def test_the_verdict_finds_repeats_below_the_commit() -> None:
    """A handling of an offset that was committed before it started is below the commit."""
    killed = Kill("a", Commit(3.9, {0: 0}))  # this explains every repeat
    repeat = handled(2, at=5, member="b")
    assert problems([*GOOD, repeat], [Commit(4, {0: 2})], [killed]) == ["1 below the commit"]
    assert problems([*GOOD, repeat], [Commit(4, {0: 1})], [killed]) == []


def test_the_verdict_finds_unexplained_repeats() -> None:
    """Each repeat needs a killed member that had handled the message above its commit."""
    repeat = handled(3, at=6, member="b")
    killed = Kill("a", Commit(4.5, {0: 2}))
    assert problems([*GOOD, repeat]) == ["1 not explained"]
    assert problems([*GOOD, repeat], kills=[Kill("b", killed.commit)]) == ["1 not explained"]
    assert problems([*GOOD, repeat], kills=[Kill("a", Commit(4.5, {0: 3}))]) == ["1 not explained"]
    assert problems([*GOOD, repeat], kills=[killed]) == []
    again = handled(3, at=8, member="c")
    assert problems([*GOOD, repeat, again], kills=[killed]) == ["1 not explained"]


def test_the_verdict_allows_repeats_above_a_gap() -> None:
    """A repeat is explained by a lower offset that its holder had not finished."""
    gap, above = handled(2, at=5, member="b"), handled(3, at=2)
    finding = Counts()
    explain(finding, [GOOD[0], above, gap, handled(3, at=6, member="b")])
    assert not finding.problems
    assert finding.counts["repeated above a gap"] == 1
    explain(finding, [GOOD[0], above, handled(2, at=5), handled(3, at=8, member="b")])
    assert finding.counts["not explained"] == 1  # the gap was closed by then


def test_the_verdict_measures_how_late_a_commit_is() -> None:
    """A commit is due when its next offset is handled, not when one above a gap is."""
    late = Kill("a", Commit(10.0, {0: 1}))
    assert oldest_uncommitted([late], GOOD) == 7.0
    assert oldest_uncommitted([late], [GOOD[0], GOOD[2]]) == 0.0


# The daemons. Each case documents its requirements.

CASES: dict[Case, float] = {
    starting.topic_missing: 0,
    starting.broker_away: 2,
    starting.cats_by_a_url: 0,
    handling.poison: 0,
    handling.partition_added: 3,
    handling.slow_handler: 8,
    stopping.restarts_one_at_a_time: 6,
    stopping.restarts_many_at_a_time: 6,
    stopping.stopped_above_unfinished: 0,
}
"""How many seconds each case lasts. They mostly wait, so they run concurrently."""


@pytest.mark.peers
@pytest.mark.timeout(120)
async def test_daemons_on_kafka(real_kafka: Cluster) -> None:
    """Daemons start, stop, fail and wait as each case requires, and lose nothing."""
    async with asyncio.TaskGroup() as group:
        for case, seconds in CASES.items():
            group.create_task(require_no_problem(case, real_kafka, seconds))


@pytest.mark.peers
@pytest.mark.timeout(120)
async def test_a_rebalance_storm(real_kafka: Cluster) -> None:
    """Members join, leave and die: nothing is lost, all is in order, repeats are above commits."""
    await require_no_problem(storm.rebalance_storm, real_kafka, 12)
