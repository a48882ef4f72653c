"""Redrive: dead letters are moved back to the topics that they came from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import REDRIVEN, REDRIVEN_AT, restored
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.redrive.support import (
    Queues,
    Reader,
    Run,
    dead,
    fill,
)
from tests.pubsub.support import until


async def test_a_dead_letter_is_published_as_the_original_message() -> None:
    """Body, key and attributes are kept; of ours only count and date of the redrive."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    letters = await fill(queues, dead(b"tom", key="k"))

    run = Run(queues)
    await run.run()

    (message,) = await cats.read()
    stamp = message.attributes[REDRIVEN_AT]
    assert (message.body, message.key) == (b"tom", "k")
    assert message.attributes == {"colour": "red", REDRIVEN: "1", REDRIVEN_AT: stamp}
    assert run.counts == (1, 0, 0)
    assert await letters.read() == []


EARLIER = {
    "colour": "red",
    "dl-own": "kept",
    "dl-reason": "exhausted",
    "dl-exception": "builtins.KeyError: no",
    "dl-source-topic": "cats",
    "dl-source-subscription": "s",
    "dl-source-partition": "0",
    "dl-message-id": "7",
    "dl-deliveries": "1",
    "dl-attempts": "5",
    "dl-first-failed-at": "2026-01-01T00:00:00+00:00",
    "dl-handler": "Cats.on_cat",
    "dl-redriven": "2",
    "dl-redriven-at": "2026-01-02T00:00:00+00:00",
}
"""The attributes of a dead letter of an earlier version."""


async def test_a_dead_letter_of_an_earlier_version_goes_back() -> None:
    """Its attributes were called dl-…; those of the user stay, and the count goes on."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    await fill(queues, Message("dead", b"tom", key="k", attributes=EARLIER, id="1"))

    run = Run(queues, match="KeyError")
    await run.run()

    assert run.counts == (1, 0, 0)
    (moved,) = await cats.read()
    marks = {name for name in moved.attributes if name.startswith("gizmo-dl-")}
    assert marks == {"gizmo-dl-redriven", "gizmo-dl-redriven-at"}
    assert moved.attributes["gizmo-dl-redriven"] == "3"
    own = {name: text for name, text in moved.attributes.items() if name not in marks}
    assert own == {"colour": "red", "dl-own": "kept"}


async def test_a_dry_run_lists_dead_letters_of_earlier_versions_by_the_names_of_today() -> None:
    """The command line prints their reasons."""
    queues = Queues()
    await fill(queues, Message("dead", b"tom", attributes=EARLIER, id="1"))

    shown: list[str] = []
    run = Run(queues, dry_run=True)
    run._on_listed = lambda each: shown.append(each.attributes["gizmo-dl-reason"])
    await run.run()

    assert shown == ["exhausted"]


async def test_a_dead_letter_of_today_keeps_attributes_of_the_old_names() -> None:
    """A dead letter of an earlier version that failed again is one of two levels."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    letter = dead(b"kit")
    letter.attributes = {**letter.attributes, **EARLIER}
    await fill(queues, letter)

    await Run(queues).run()

    moved = {message.body: message.attributes for message in await cats.read()}
    assert moved[b"kit"].items() >= EARLIER.items()


async def test_a_tombstone_goes_back() -> None:
    """A dead letter without a body is published without one."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    await fill(queues, Message("dead", None, key="k", attributes={"gizmo-dl-source-topic": "cats"}))

    await Run(queues).run()

    assert await cats.bodies() == [None]


@pytest.mark.parametrize(
    ("earlier", "count"),
    [
        ("", "1"),
        ("1", "2"),
        ("nonsense", "1"),
        ("-1", "1"),
        ("9" * 5000, "1"),
        ("٣", "1"),
        ("²", "1"),
        ("999999", "1000000"),
        ("1000000", "1000000"),
        ("1000001", "1000000"),
    ],
)
def test_a_loop_is_counted(earlier: str, count: str) -> None:
    """Each redrive adds one to gizmo-dl-redriven, up to a million; invalid text counts as 0."""
    again = restored(dead(dl_redriven=earlier), "now")
    assert again.attributes[REDRIVEN] == count


async def test_messages_of_a_key_keep_their_order() -> None:
    """Dead letters of one key are published in the order of their receipt."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    bodies = [str(number).encode() for number in range(200)]
    await fill(queues, *(dead(body, key="k") for body in bodies))

    await Run(queues).run()

    assert await cats.bodies() == bodies


async def test_a_dead_letter_is_acked_only_when_its_publish_is_confirmed() -> None:
    """A run that is interrupted before the confirmation leaves the dead letter."""
    queues = Queues()
    letters = await fill(queues, dead())
    queues.gate.clear()
    run = Run(queues)
    running = asyncio.create_task(run.run())
    await until(lambda: run._progress.moving)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert run.counts == (0, 1, 0)
    assert await letters.bodies() == [b"cat"]


async def test_a_failed_publish_is_reported_and_gives_its_dead_letter_back() -> None:
    """A dead letter that cannot be published stays, once; the others are moved."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    queues.refused["dogs"] = TopicNotFound("topic 'dogs' does not exist")
    letters = await fill(queues, dead(b"rex", source="dogs"), dead(b"tom"), dead(b"kit"))

    run = Run(queues)
    await run.run()

    assert run.counts == (2, 0, 1)
    assert run.reasons == ["it was not published to 'dogs': topic 'dogs' does not exist"]
    assert await cats.bodies() == [b"tom", b"kit"]
    assert await letters.bodies() == [b"rex"]


async def test_a_fault_of_a_driver_is_a_failure_too() -> None:
    """An unexpected exception neither ends the run nor loses the dead letter."""
    queues = Queues()
    queues.refused["cats"] = ZeroDivisionError("a bug")
    letters = await fill(queues, dead())

    run = Run(queues)
    await run.run()

    assert run.counts == (0, 0, 1)
    assert await letters.bodies() == [b"cat"]


async def test_a_dead_letter_without_a_source_topic_stays() -> None:
    """A dead letter without gizmo-dl-source-topic fails, unless the plan names a channel."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    letters = await fill(queues, Message("dead", b"stray"))

    run = Run(queues)
    await run.run()
    assert run.counts == (0, 0, 1)
    assert "no gizmo-dl-source-topic" in run.reasons[0]
    assert await letters.bodies() == [b"stray"]

    run = Run(queues, to="cats")
    await run.run()
    assert run.counts == (1, 0, 0)
    assert await cats.bodies() == [b"stray"]


async def test_an_ack_that_does_not_arrive_is_a_failure() -> None:
    """A published message whose dead letter was not acked is not counted as redriven."""
    queues = Queues()
    await fill(queues, dead())
    queues.ack_error = PubSubError("the lease is over", transient=False)

    run = Run(queues)
    await run.run()

    assert run.counts == (0, 0, 1)
    assert "published, but not acked" in run.reasons[0]


async def test_a_dry_run_lists_each_once_and_moves_nothing() -> None:
    """All dead letters are listed, none is published, and all remain."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    letters = await fill(queues, dead(b"tom"), dead(b"kit"))

    run = Run(queues, dry_run=True)
    await run.run()

    assert [message.body for message in run.listed] == [b"tom", b"kit"]
    assert run.counts == (0, 2, 0)
    assert await cats.read() == []
    assert await letters.bodies() == [b"tom", b"kit"]


async def test_only_matching_dead_letters_are_moved() -> None:
    """The match is searched in reason and exception; the others stay."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    letters = await fill(
        queues,
        dead(b"tom", dl_exception="builtins.KeyError: 'age'"),
        dead(b"kit"),
        dead(b"leo", dl_reason="no KeyError"),
    )

    run = Run(queues, match="KeyError")
    await run.run()

    assert run.counts == (2, 1, 0)
    assert await cats.bodies() == [b"tom", b"leo"]
    assert await letters.bodies() == [b"kit"]


@pytest.mark.parametrize("more", [{}, {"match": "ValueError"}, {"dry_run": True}])
async def test_a_limit_ends_the_run(more: dict[str, Any]) -> None:
    """No more than the limit are moved or listed, and the run says that there may be more."""
    queues = Queues()
    letters = await fill(queues, *(dead(str(number).encode()) for number in range(50)))

    run = Run(queues, limit=3, wait=3600, **more)
    await run.run()

    moved, listed = (0, 3) if "dry_run" in more else (3, 0)
    assert (run.settled, len(run.listed)) == (moved, listed)
    assert run.stopped == "the limit of 3 is reached"
    assert len(await letters.read()) == 50 - moved


async def test_failures_count_towards_the_limit() -> None:
    """If the target does not exist, a limited run does not try every dead letter."""
    queues = Queues()
    queues.refused["cats"] = TopicNotFound("topic 'cats' does not exist")
    await fill(queues, dead(), dead(), dead())

    run = Run(queues, limit=2, wait=3600)
    await run.run()

    assert run.failed == 2


async def test_the_messages_that_are_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends when it holds the maximum, and says so."""
    monkeypatch.setattr("gizmopy.pubsub.redrive._MAX_HELD", 5)
    queues = Queues()
    letters = await fill(queues, *(dead(str(number).encode()) for number in range(9)))

    run = Run(queues, match="nothing like that", wait=3600)
    await run.run()

    assert run.stopped.startswith("5 messages with 12120 bytes were not moved")
    assert run.counts == (0, 5, 0)
    assert len(await letters.read()) == 9


async def test_a_slow_publish_is_waited_for_with_its_lease() -> None:
    """A publish may take longer than the lease and than ``wait``; its message is moved once."""
    queues = Queues(lease=0.4)
    cats = Reader(queues, "cats")
    await cats.begin()
    await fill(queues, dead(b"tom"))
    queues.gate.clear()
    run = Run(queues)
    running = asyncio.create_task(run.run())
    await until(lambda: queues.extended >= 5)  # at least 0.08 s apart

    assert not running.done()
    queues.gate.set()
    await running
    assert run.counts == (1, 0, 0)
    assert await cats.bodies() == [b"tom"]


async def test_a_message_that_fails_again_is_not_moved_again_by_the_same_run() -> None:
    """A handler that still fails does not make the run endless."""
    queues = Queues()
    letters = await fill(queues, dead(source="dead"))  # each published message is received again

    run = Run(queues)
    await run.run()

    assert run.counts == (1, 1, 0)
    (message,) = await letters.read()
    assert message.attributes[REDRIVEN] == "1"

    again = Run(queues, to="dead")
    await again.run()
    assert again.counts == (1, 1, 0)
    (message,) = await letters.read()
    assert message.attributes[REDRIVEN] == "2"


async def test_dead_letters_that_do_not_exist_are_an_error() -> None:
    """A missing topic is an error, not an empty topic."""
    broker = LogBroker()
    broker.missing.add("dead")
    with pytest.raises(TopicNotFound, match="'dead'"):
        await Run(broker).run()


async def test_an_unreachable_broker_is_not_taken_for_an_empty_one() -> None:
    """A run that has not reached the broker ends with an error."""
    broker = LogBroker()
    with broker.outage(), pytest.raises(PubSubError, match="cannot be reached"):
        await Run(broker).run()


async def test_an_interrupted_run_gives_its_messages_back() -> None:
    """A cancelled run leaves the dead letters that were not moved in their place."""
    queues = Queues()
    letters = await fill(queues, dead(b"tom"), dead(b"kit"))
    run = Run(queues, dry_run=True, wait=3600)
    running = asyncio.create_task(run.run())
    await until(lambda: len(run.listed) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert run.left == 2
    assert sorted(await letters.bodies(), key=str) == [b"kit", b"tom"]
