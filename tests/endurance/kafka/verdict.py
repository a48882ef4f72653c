"""The requirements on the records of daemons, after any case. No input or output.

A daemon records each handling before its handler returns; the commits are those that the broker
reports. From both follows:

- lost: a message that was confirmed to its publisher and that no record has;
- out of order: a message whose first handling started before that of its predecessor had ended;
- below the commit: a handling that started when the broker had its offset as committed;
- not explained: a repeat of a message that was neither handled above a gap (an offset below it was
  not finished when its partition moved to another assignment), nor by a killed daemon above its
  commit. A daemon that leaves, or gives up a partition, has committed all that a position can hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.endurance.http.finding import Finding


class Handling(NamedTuple):
    """One line of the records; times are of the monotonic clock, which all processes share."""

    member: str
    assignment: int
    """The number of the assignment, counted over all partitions of its member."""
    partition: int
    offset: int
    key: str
    number: int
    attempt: int
    started: float
    ended: float

    @property
    def place(self) -> tuple[int, int]:
        """The partition and the offset of the message."""
        return self.partition, self.offset

    @property
    def holder(self) -> tuple[str, int]:
        """The member and the assignment that had the partition."""
        return self.member, self.assignment


class Commit(NamedTuple):
    """The committed offset of each partition, as the broker reported it by a time."""

    at: float
    offsets: Mapping[int, int]


class Kill(NamedTuple):
    """A member that was killed, and the commit that the broker reported right after."""

    member: str
    commit: Commit


@dataclass
class Counts(Finding):
    """The problems that a case found, and its figures."""

    counts: dict[str, float] = field(default_factory=dict)

    def require_none(self, name: str, found: Sequence[object]) -> None:
        """Count the findings, each of which is a problem; show the first few."""
        self.counts[name] = len(found)
        shown = ", ".join(map(str, found[:3]))
        self.require(not found, f"{len(found)} {name}: {shown}")


def parse(member: str, lines: Iterable[str]) -> list[Handling]:
    """Return the handlings in a member's records."""
    handlings = []
    for line in lines:
        assignment, partition, offset, key, number, attempt, started, ended = line.split()
        where = (member, int(assignment), int(partition), int(offset))
        what = (key, int(number), int(attempt))
        handlings.append(Handling(*where, *what, float(started), float(ended)))
    return handlings


def judge(
    finding: Counts,
    published: Mapping[str, int],
    handlings: Sequence[Handling],
    commits: Sequence[Commit] = (),
) -> None:
    """Require that nothing is lost, and nothing repeated below the commit.

    ``published`` has the number of confirmed messages of each key, numbered from 1.
    """
    handled = {(each.key, each.number) for each in handlings}
    places = {each.place for each in handlings}
    finding.counts |= {
        "published": sum(published.values()),
        "handled": len(handled),
        "duplicates": len(handlings) - len(places),
    }
    confirmed = [(key, number + 1) for key, count in published.items() for number in range(count)]
    finding.require_none("lost", [each for each in confirmed if each not in handled])
    finding.require_none("below the commit", below_the_commit(handlings, commits))


def out_of_order(handlings: Iterable[Handling]) -> list[Handling]:
    """Return the first handlings that started before the predecessor's first one had ended."""
    first: dict[tuple[str, int], Handling] = {}
    for each in sorted(handlings, key=lambda each: each.ended):
        first.setdefault((each.key, each.number), each)
    return [
        each
        for (key, number), each in first.items()
        if number > 1
        and ((before := first.get((key, number - 1))) is None or before.ended > each.started)
    ]


def below_the_commit(handlings: Iterable[Handling], commits: Sequence[Commit]) -> list[Handling]:
    """Return the handlings that started when their offsets were known to be committed."""
    times = [commit.at for commit in commits]
    below = []
    for each in handlings:
        known = bisect_right(times, each.started)
        if known and each.offset < commits[known - 1].offsets.get(each.partition, 0):
            below.append(each)
    return below


def explain(finding: Counts, handlings: Sequence[Handling], kills: Sequence[Kill] = ()) -> None:
    """Require that each repeat was handled above a gap, or by a killed member above its commit."""
    by_kill = {each for kill in kills for each in uncommitted(kill, handlings)}
    repeated = list(_repeated(handlings))
    above_gap = set(above_gaps(repeated, handlings))
    finding.counts["repeated above a gap"] = len(above_gap)
    finding.counts["repeated after a kill"] = len(by_kill.intersection(repeated) - above_gap)
    rest = [each for each in repeated if each not in above_gap and each not in by_kill]
    finding.require_none("not explained", rest)


def _repeated(handlings: Sequence[Handling]) -> Iterator[Handling]:
    """Yield each handling whose message was handled again later."""
    last: dict[tuple[int, int], Handling] = {}
    for each in sorted(handlings, key=lambda each: each.ended):
        if each.place in last:
            yield last[each.place]
        last[each.place] = each


def above_gaps(some: Iterable[Handling], handlings: Sequence[Handling]) -> Iterator[Handling]:
    """Yield the handlings that ended above an offset which their holder never finished.

    Another holder handled that offset for the first time, and later.
    """
    first: dict[tuple[int, int], Handling] = {}
    for each in sorted(handlings, key=lambda each: each.ended):
        first.setdefault(each.place, each)
    for each in some:
        below = (first.get((each.partition, offset)) for offset in range(each.offset))
        if any(gap and gap.ended > each.ended and gap.holder != each.holder for gap in below):
            yield each


def uncommitted(kill: Kill, handlings: Iterable[Handling]) -> list[Handling]:
    """Return the handlings of a member above its last commit."""
    offsets = kill.commit.offsets
    return [
        each
        for each in handlings
        if each.member == kill.member and each.offset >= offsets.get(each.partition, 0)
    ]


def oldest_uncommitted(kills: Iterable[Kill], handlings: Iterable[Handling]) -> float:
    """Return the longest time for which a killed member had a next offset to commit.

    Handlings above an unfinished offset do not count: no position can hold them.
    """
    ended = {(each.member, each.partition, each.offset): each.ended for each in handlings}
    ages = [
        kill.commit.at - ended[kill.member, partition, offset]
        for kill in kills
        for partition, offset in kill.commit.offsets.items()
        if (kill.member, partition, offset) in ended
    ]
    return max(ages, default=0.0)
