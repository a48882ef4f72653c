"""What must hold of the records of daemons, whatever has happened to them; no input or output.

Each handling stands in the records once its handler was about to return, and the commits are those
that the broker has told. From both follows, without knowing what the daemons were doing:

- lost: a message that was confirmed to its publisher and that no record has;
- out of order: a message whose first handling began before that of its predecessor had ended;
- below the commit: a handling that began when the broker had its offset as handled already;
- not explained: a repeat of what neither was handled above a gap, so that no position could tell
  it (an offset below it was not finished when its partition went to another assignment), nor by a
  killed daemon above the commit that it left behind. Who leaves by itself, or gives up a partition
  to another, has committed all that a position can tell.
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
    """The times that its member got a partition, counted over all of them."""
    partition: int
    offset: int
    key: str
    number: int
    attempt: int
    started: float
    ended: float

    @property
    def place(self) -> tuple[int, int]:
        """What the broker calls the message: its partition and offset."""
        return self.partition, self.offset

    @property
    def holder(self) -> tuple[str, int]:
        """Who had the partition."""
        return self.member, self.assignment


class Commit(NamedTuple):
    """What the broker has told to be committed, by partition, at the latest at a time."""

    at: float
    offsets: Mapping[int, int]


class Kill(NamedTuple):
    """A member that was killed, and the commit that the broker told right after."""

    member: str
    commit: Commit


@dataclass
class Counts(Finding):
    """The problems that a case found, and its exact figures."""

    counts: dict[str, float] = field(default_factory=dict)

    def require_none(self, name: str, found: Sequence[object]) -> None:
        """Count what was found, which is a problem for each; the first few are shown."""
        self.counts[name] = len(found)
        shown = ", ".join(map(str, found[:3]))
        self.require(not found, f"{len(found)} {name}: {shown}")


def parse(member: str, lines: Iterable[str]) -> list[Handling]:
    """Return the handlings that a member's records tell."""
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

    ``published`` tells how many messages of each key were confirmed, from number 1.
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
    """Return the first handlings that began before the predecessor's first one had ended."""
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
    """Return the handlings that began when their offsets were known to be committed."""
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
    """Yield each handling after which its message was handled again."""
    last: dict[tuple[int, int], Handling] = {}
    for each in sorted(handlings, key=lambda each: each.ended):
        if each.place in last:
            yield last[each.place]
        last[each.place] = each


def above_gaps(some: Iterable[Handling], handlings: Sequence[Handling]) -> Iterator[Handling]:
    """Yield those of some handlings that ended above an offset which their holder never finished.

    That is one which others handled for the first time, and later.
    """
    first: dict[tuple[int, int], Handling] = {}
    for each in sorted(handlings, key=lambda each: each.ended):
        first.setdefault(each.place, each)
    for each in some:
        below = (first.get((each.partition, offset)) for offset in range(each.offset))
        if any(gap and gap.ended > each.ended and gap.holder != each.holder for gap in below):
            yield each


def uncommitted(kill: Kill, handlings: Iterable[Handling]) -> list[Handling]:
    """Return what a member had handled above the commit that it left behind."""
    offsets = kill.commit.offsets
    return [
        each
        for each in handlings
        if each.member == kill.member and each.offset >= offsets.get(each.partition, 0)
    ]


def oldest_uncommitted(kills: Iterable[Kill], handlings: Iterable[Handling]) -> float:
    """Return for how many seconds a member had a next offset to commit, at most, when it died.

    What it had handled above an offset that it had not does not count: no position can tell it.
    """
    ended = {(each.member, each.partition, each.offset): each.ended for each in handlings}
    ages = [
        kill.commit.at - ended[kill.member, partition, offset]
        for kill in kills
        for partition, offset in kill.commit.offsets.items()
        if (kill.member, partition, offset) in ended
    ]
    return max(ages, default=0.0)
