"""Redrive and drop on a broker with a browser, where each dead letter is settled by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message
from gizmopy.pubsub.driver import Results
from gizmopy.pubsub.wanted import Wanted
from tests.pubsub.log_broker import LogBroker, LogBrowser
from tests.pubsub.redrive.support import Run, dead, fill


def a_broker() -> LogBroker:
    """Return a broker with one partition for each topic."""
    return LogBroker(partitions=1, can_browse=True)


def bodies(broker: LogBroker, topic: str) -> list[bytes | None]:
    """Return the bodies of the messages in a topic."""
    return [message.body for log in broker.logs(topic) for message in log.messages]


async def left(broker: LogBroker) -> list[bytes | None]:
    """Return the bodies of the dead letters that are not settled."""
    run = Run(broker, dry_run=True)
    await run.run()
    return [message.body for message in run.listed]


async def test_one_that_fails_holds_up_no_other() -> None:
    """On a log with a browser the dead letters behind a failure move, and it stays."""
    broker = a_broker()
    broker.missing.add("dogs")
    await fill(broker, dead(b"tom"), dead(b"rex", source="dogs"), dead(b"kit"))

    run = Run(broker)
    await run.run()

    assert run.counts == (2, 0, 1)
    assert bodies(broker, "cats") == [b"tom", b"kit"]
    assert await left(broker) == [b"rex"]


async def test_one_that_is_not_allowed_holds_up_no_other() -> None:
    """It is counted by its topic, and the others move."""
    broker = a_broker()
    await fill(broker, dead(b"forged", source="passwords"), dead(b"kit"))

    run = Run(broker)
    await run.run()

    assert run.counts == (1, 1, 0)
    assert run.refused == {"passwords": 1}
    assert await left(broker) == [b"forged"]


@pytest.mark.parametrize("drop", [False, True])
async def test_a_filter_takes_some(drop: bool) -> None:
    """Those that are not meant stay, wherever they are."""
    broker = a_broker()
    await fill(broker, dead(b"tom"), dead(b"kit", key="k"), dead(b"rex"), dead(b"leo", key="k"))

    run = Run(broker, wanted=Wanted(key="k"), drop=drop)
    await run.run()

    assert run.counts == (2, 2, 0)
    assert bodies(broker, "cats") == ([] if drop else [b"kit", b"leo"])
    assert await left(broker) == [b"tom", b"rex"]


async def test_a_limit_ends_the_run() -> None:
    """Exactly as many move, the first ones; the next run goes on."""
    broker = a_broker()
    await fill(broker, *(dead(str(number).encode()) for number in range(5)))

    run = Run(broker, limit=3)
    await run.run()

    assert run.settled == 3
    assert run.stopped == "the limit of 3 is reached"
    assert await left(broker) == [b"3", b"4"]


async def test_a_key_keeps_its_order() -> None:
    """Dead letters of one key are published in their order."""
    broker = a_broker()
    await fill(broker, *(dead(str(n).encode(), key=str(n % 3)) for n in range(30)))

    await Run(broker).run()

    for key in range(3):
        expected = [str(n).encode() for n in range(30) if n % 3 == key]
        found = [m.body for m in broker.logs("cats")[0].messages if m.key == str(key)]
        assert found == expected


async def test_a_run_has_no_most() -> None:
    """More are passed over than the engine could hold."""
    broker = a_broker()
    await fill(broker, *(dead(b"tom") for _ in range(12_000)), dead(b"kit", key="k"))

    run = Run(broker, wanted=Wanted(key="k"), drop=True)
    await run.run()

    assert run.counts == (1, 12_000, 0)
    assert run.stopped == ""


class Refusing(LogBrowser):
    async def settle(self, batch: Sequence[Message]) -> Results:
        return [PubSubError("no", transient=True)] * len(batch)


class RefusingBroker(LogBroker):
    def browser(self, topic: str, subscription: str) -> LogBrowser:
        return Refusing(self, topic, subscription)


@pytest.mark.parametrize(
    ("drop", "reason"),
    [(True, "it was not deleted: no"), (False, "it was published, but not acked: the next run")],
)
async def test_a_settle_that_fails_is_told(drop: bool, reason: str) -> None:
    """The dead letter counts as failed, and comes again."""
    broker = RefusingBroker(partitions=1, can_browse=True)
    await fill(broker, dead(b"tom"))

    run = Run(broker, drop=drop)
    await run.run()

    assert run.counts == (0, 0, 1)
    assert run.reasons[0].startswith(reason)
