"""A dead letter that fails again keeps its earlier failures, and a redrive restores one of them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub.engine.dead_letter import (
    Failure,
    as_dead_letter,
    publish_dead_letter,
    without_last_failure,
)
from gizmopy.pubsub.message import Message, RepeatedAttributes
from tests.pubsub.support import subscription_of

NOW = datetime(2024, 5, 1, tzinfo=UTC)


async def _handle(message: Message) -> None: ...


def _dead(message: Message, topic: str, error: str) -> Message:
    """Return the dead letter of ``message``, as it arrives in ``topic``."""
    failure = Failure(message, "exhausted", ValueError(error), subscription_of(_handle), NOW)
    dead = as_dead_letter(failure)
    return Message(topic, dead.body, key=dead.key, attributes=dead.attributes, id=f"{topic}-1")


def test_the_first_source_is_kept() -> None:
    """Attributes of an earlier failure have its number, and the last failure has none."""
    first = _dead(Message("cats", b"x", id="cats-7"), "dead", "one")
    second = _dead(first, "grave", "two").attributes

    assert second["gizmo-dl-hops"] == "2"
    assert second["gizmo-dl-source-topic"] == "dead"
    assert second["gizmo-dl-1-source-topic"] == "cats"
    assert second["gizmo-dl-1-message-id"] == "cats-7"
    assert "one" in second["gizmo-dl-1-exception"]
    assert "two" in second["gizmo-dl-exception"]


def test_a_redrive_restores_one_failure() -> None:
    """The attributes are those of the time before the last failure, down to the original."""
    original = {"colour": "red", "dl-reason": "mine"}
    levels = [Message("cats", b"x", attributes=original)]
    for topic in ("dead", "grave", "tomb"):
        levels.append(_dead(levels[-1], topic, topic))

    for earlier, later in pairwise(levels):
        assert without_last_failure(later.attributes) == earlier.attributes


def test_the_users_own_dl_attributes_are_kept() -> None:
    """gizmopy's attributes have a prefix of their own."""
    dead = _dead(Message("cats", b"x", attributes={"dl-reason": "mine"}), "dead", "no")
    assert dead.attributes["dl-reason"] == "mine"
    assert dead.attributes["gizmo-dl-reason"] == "exhausted"


@pytest.mark.parametrize("hops", ["nonsense", "-1", "0", "100", "\u0662", "9" * 5000])
def test_a_forged_count_is_the_first(hops: str) -> None:
    """The sender may choose the attribute."""
    forged = Message("dead", b"x", attributes={"gizmo-dl-hops": hops, "gizmo-dl-reason": "r"})
    assert _dead(forged, "grave", "no").attributes["gizmo-dl-hops"] == "2"
    assert without_last_failure(forged.attributes) == {}


async def test_a_cycle_of_several_services_ends() -> None:
    """After 16 dead letters the message is kept, and the error says how to end the cycle."""
    letters = [Message("a", b"x")]

    async def publish(letter: Message) -> None:
        letters.append(letter)

    async def fail() -> None:
        error, subscription = ValueError(), subscription_of(_handle)
        await publish_dead_letter(
            publish, Failure(letters[-1], "exhausted", error, subscription, NOW)
        )

    for _ in range(16):
        await fail()
    with pytest.raises(PubSubError, match="cycle") as caught:
        await fail()
    assert not caught.value.transient


def test_repeated_attributes_survive_a_dead_letter_and_its_redrive() -> None:
    """Several attributes of one name keep their order and number."""
    pairs = (("via", "a"), ("x", "1"), ("via", "b\udcff"))
    dead = _dead(Message("cats", b"x", attributes=RepeatedAttributes(pairs)), "dead", "no")
    assert tuple(dead.attributes.items())[:3] == pairs
    assert tuple(without_last_failure(dead.attributes).items()) == pairs
