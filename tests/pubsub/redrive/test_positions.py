"""Redrive from a broker with positions, where no message can be skipped."""

from __future__ import annotations

import pytest

from gizmopy.errors import UsageError
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.redrive.support import (
    Run,
    dead,
    fill,
)


async def test_positions_move_to_the_end() -> None:
    """On a broker with positions, everything is published and committed."""
    broker = LogBroker(partitions=2)
    await fill(broker, *(dead(str(n).encode(), key=str(n % 7)) for n in range(40)))

    run = Run(broker)
    await run.run()

    assert run.counts == (40, 0, 0)
    assert broker.is_consumed("dead", "redrive")
    assert sum(len(log.messages) for log in broker.logs("cats")) == 40


async def test_a_partition_stops_at_a_failure() -> None:
    """A failed dead letter is not skipped: the rest of its partition waits for the next run."""
    broker = LogBroker(partitions=1)
    broker.missing.add("dogs")
    await fill(broker, dead(b"tom"), dead(b"rex", source="dogs"), dead(b"kit"))

    run = Run(broker)
    await run.run()

    assert run.counts == (1, 1, 1)
    assert broker.committed("dead", "redrive") == {0: 1}
    assert [message.body for message in broker.logs("cats")[0].messages] == [b"tom"]

    broker.missing.clear()
    again = Run(broker)
    await again.run()
    assert again.counts == (2, 0, 0)
    assert [message.body for message in broker.logs("cats")[0].messages] == [b"tom", b"kit"]


async def test_a_dry_run_on_a_log_lists_those_that_match() -> None:
    """Nothing is moved, so nothing has to be skipped."""
    broker = LogBroker(partitions=1)
    await fill(broker, dead(b"tom", dl_exception="KeyError: a"), dead(b"kit"))

    run = Run(broker, dry_run=True, match="KeyError")
    await run.run()

    assert [message.body for message in run.listed] == [b"tom"]
    assert not broker.committed("dead", "redrive")


async def test_a_dry_run_on_a_log_lists_all_and_commits_nothing() -> None:
    """A listed dead letter does not block those behind it."""
    broker = LogBroker(partitions=1)
    await fill(broker, dead(b"tom"), dead(b"kit"))

    run = Run(broker, dry_run=True)
    await run.run()

    assert [message.body for message in run.listed] == [b"tom", b"kit"]
    assert run.counts == (0, 2, 0)
    assert not broker.committed("dead", "redrive")


async def test_a_limit_on_a_log_commits_as_much() -> None:
    """The next run begins behind the last one that was moved."""
    broker = LogBroker(partitions=1)
    await fill(broker, *(dead(str(number).encode()) for number in range(5)))

    run = Run(broker, limit=2, wait=3600)
    await run.run()

    assert run.settled == 2
    assert broker.committed("dead", "redrive") == {0: 2}


async def test_a_log_cannot_be_filtered() -> None:
    """Without a way to skip messages, a match is rejected before anything is moved."""
    broker = LogBroker()
    with pytest.raises(UsageError, match="keeps positions"):
        await Run(broker, match="KeyError").run()
