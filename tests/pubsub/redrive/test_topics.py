"""Redrive: the topics that dead letters may be published to."""

from __future__ import annotations

import pytest

from gizmopy.pubsub.message import Message
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.redrive.support import (
    Queues,
    Reader,
    Run,
    dead,
    fill,
)


async def test_nothing_is_published_to_a_topic_that_is_not_allowed() -> None:
    """The dead letter of a topic that is not allowed stays and is counted; others are moved."""
    queues = Queues()
    cats, passwords = Reader(queues, "cats"), Reader(queues, "passwords")
    await cats.begin()
    await passwords.begin()
    forged = [dead(b"forged", source="passwords") for _ in range(2)]
    letters = await fill(queues, dead(b"tom"), *forged, dead(b"kit"))

    run = Run(queues, from_topics=frozenset(("cats",)))
    await run.run()

    assert run.counts == (2, 2, 0)
    assert run.refused == {"passwords": 2}
    assert await cats.bodies() == [b"tom", b"kit"]
    assert await passwords.bodies() == []
    assert await letters.bodies() == [b"forged", b"forged"]


async def test_without_any_topic_all_are_counted_and_none_moves() -> None:
    """All are counted, also on a broker with positions, where the first could block the rest."""
    letters = [
        Message("dead", b"x", attributes={"gizmo-dl-source-topic": source}, id=str(number))
        for number, source in enumerate(("cats", "dogs", "cats"))
    ]
    broker = LogBroker(partitions=1)
    for letter in letters:
        broker.append(letter)
    for driver in (Queues(), broker):
        if isinstance(driver, Queues):
            await fill(driver, *letters)
        run = Run(driver, from_topics=frozenset())
        await run.run()
        assert run.refused == {"cats": 2, "dogs": 1}
        assert run.counts == (0, 3, 0)


@pytest.mark.parametrize(
    ("topics", "subscriptions"),
    [
        ({"CATS": "queues://host/cats"}, {}),
        ({"ANYTHING": "queues://host/cats"}, {}),
        ({"CATS": "queues://host"}, {}),
        ({}, {"CATS": "queues://host/cats"}),
        ({}, {"ANYTHING": "queues://host/cats"}),
    ],
)
async def test_a_topic_that_the_settings_name_gets_its_dead_letters(
    topics: dict[str, str], subscriptions: dict[str, str]
) -> None:
    """The topics of channels that are published or consumed are allowed."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    await fill(queues, dead(b"tom"), dead(b"rex", source="dogs"))

    run = Run(queues, topics=topics, subscriptions=subscriptions, from_topics=frozenset())
    await run.run()

    assert await cats.bodies() == [b"tom"]
    assert run.refused == {"dogs": 1}


async def test_the_counts_by_topic_are_bounded() -> None:
    """The sender of dead letters chooses the number of their topics, and the length of each."""
    queues = Queues()
    names = [f"topic-{number}" for number in range(150)]
    await fill(queues, *(dead(source=name) for name in (*names, "x" * 10**6, names[0])))

    run = Run(queues, from_topics=frozenset())
    await run.run()

    assert len(run.refused) == 101
    assert run.refused[names[0]] == 2
    assert run.refused[""] == 51
    assert sum(run.refused.values()) == 152


async def test_channels_have_the_destinations_of_the_settings() -> None:
    """The dead letters and the target are channels, with the destinations of the settings."""
    brokers = {"queues:": Queues(), "a://host": Queues(), "b://host?x=1": Queues()}
    moved = Reader(brokers["b://host?x=1"], "cats-v2")
    await moved.begin()
    letters = await fill(brokers["a://host"], dead(), topic="graveyard")

    run = Run(
        lambda url: brokers[url.rstrip("/")],
        topics={"CATS": "b://host/cats-v2?x=1", "DEAD": "b://host/elsewhere?x=1"},
        subscriptions={"DEAD": "a://host/graveyard"},
        to="cats",
    )
    await run.run()

    assert run.counts == (1, 0, 0)
    assert await moved.bodies() == [b"cat"]
    assert await letters.read() == []


@pytest.mark.parametrize("kind", ["topics", "subscriptions"])
async def test_a_source_topic_is_found_on_its_own_broker(kind: str) -> None:
    """A topic in the URL of one channel is published to with that URL."""
    brokers = {"queues:": Queues(), "b://host": Queues()}
    cats = Reader(brokers["b://host"], "cats-v2")
    await cats.begin()
    await fill(brokers["queues:"], dead(source="cats-v2"))

    run = Run(lambda url: brokers[url.rstrip("/")], **{kind: {"CATS": "b://host/cats-v2"}})
    await run.run()

    assert run.counts == (1, 0, 0)
    assert await cats.bodies() == [b"cat"]
