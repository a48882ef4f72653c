"""Dead letters that the broker refuses: they lose attributes, or their message is stuck."""

from __future__ import annotations

from typing import Any

import pytest

from gizmopy import Message, Reject, RetryPolicy
from gizmopy.errors import PubSubError, TopicNotFound, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Publisher
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.engine.sizes import wire_size
from tests.pubsub.support import always, message, no_wait, running, until

LIMIT = 10_000


def accepting(limit: int, dead: list[Message]) -> Any:
    """Return a function that publishes dead letters of at most ``limit`` bytes."""

    async def publish(letter: Message) -> None:
        if wire_size(letter) > limit:
            raise PubSubError("too large", transient=False)
        dead.append(letter)

    return publish


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (
            2_000,
            {
                "gizmo-dl-exception",
                "gizmo-dl-reason",
                "gizmo-dl-source-topic",
                "gizmo-dl-message-id",
                "gizmo-dl-handler",
            },
        ),
        (
            500,
            {
                "gizmo-dl-exception",
                "gizmo-dl-reason",
                "gizmo-dl-source-topic",
                "gizmo-dl-message-id",
                "gizmo-dl-handler",
            },
        ),
        (240, {"gizmo-dl-reason", "gizmo-dl-source-topic", "gizmo-dl-source-subscription"}),
        (60, {"gizmo-dl-source-topic"}),
        (10, set()),
    ],
)
async def test_a_dead_letter_fits_by_losing_attributes(room: int, kept: set[str]) -> None:
    """They are shortened, then left out; the source, which a redrive needs, last of all."""
    dead: list[Message] = []
    body = b"x" * (LIMIT - room)
    async with running(always(Reject("r" * 900)), dead_letter=accepting(LIMIT, dead)) as bench:
        bench.receiver.put(message(body, id="1"))
        await until(lambda: bench.outcomes == [("1", "dead_letter")])
    assert dead[0].body == body
    assert kept <= dead[0].attributes.keys()
    assert ("gizmo-dl-exception" in dead[0].attributes) == (len(kept) == 5)
    assert bench.subscriber.stuck == 0


async def test_a_message_as_large_as_the_limit_of_a_publisher_is_dead_lettered() -> None:
    """Through a real publisher, which refuses messages above the broker's limit."""
    driver = MemoryDriver(message_bytes=LIMIT)
    receiver = driver.receiver("dead", "s", ordered=False)
    await receiver.connect(no_revoke)
    publisher = Publisher(
        driver.sender("dead"), "dead", metrics=Metrics(), limits=driver.capabilities
    )
    async with publisher:
        async with running(always(Reject("no")), dead_letter=publisher.publish) as bench:
            bench.receiver.put(message(b"x" * 9_900, id="1"))
            await until(lambda: bench.outcomes == [("1", "dead_letter")])
        (letter,) = await receiver.receive(1, 1)
    assert letter.attributes["gizmo-dl-source-topic"] == "t"
    await receiver.aclose()


async def no_revoke(partitions: object, seconds: float) -> None:
    """Give up no partitions: this broker has none."""


@pytest.mark.parametrize("refusal", [TopicNotFound("no topic"), UsageError("closed"), KeyError()])
@pytest.mark.parametrize("order", ["key", "none"])
async def test_a_dead_letter_that_is_refused_for_good_is_told_as_stuck(
    refusal: Exception, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, in the health of the subscription, and logged once with the remedy."""

    async def refuse(letter: Message) -> None:
        raise refusal

    async with running(
        always(Reject("no")), dead_letter=refuse, order=order, channel="cats", sleep=no_wait
    ) as bench:
        bench.receiver.put(message(id="1", key="k"))
        await until(lambda: bench.metric("stuck", "rejected") >= 1)
        await until(lambda: bench.subscriber.stuck == 1)
        assert "dead_letter" not in [outcome for _, outcome in bench.outcomes]
        assert bench.receiver.acked == []
        await bench.subscriber.drain(0)
    (line,) = [r.message for r in caplog.records if "does not accept its dead letter" in r.message]
    assert type(refusal).__name__ in line
    assert "correct that channel" in line


async def test_a_message_that_fits_in_no_way_is_told_as_stuck() -> None:
    """The broker refuses it even without attributes."""
    async with running(always(Reject("no")), dead_letter=accepting(10, []), order="key") as bench:
        bench.receiver.put(message(b"x" * 11, id="1", key="k"))
        await until(lambda: bench.metric("stuck", "rejected") >= 1)
        await until(lambda: bench.subscriber.stuck == 1)
        await bench.subscriber.drain(0)


async def test_a_message_without_a_dead_letter_channel_is_stuck_without_order_too() -> None:
    """It was given back, so it is no longer here, and is counted until it would have come again."""
    options: dict[str, Any] = {"retry": RetryPolicy(attempts=1), "max_deliveries": 1}
    async with running(always(ValueError("no")), **options) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.outcomes == [("1", "nack")])
        assert bench.subscriber.stuck == 1


async def test_a_transient_refusal_is_not_stuck() -> None:
    """The dead letter is tried again until the broker accepts it."""
    async with running(always(Reject("no")), dead_letter=True, order="key") as bench:
        bench.dead_letter_errors = [PubSubError("full", transient=True), TimeoutError()]
        bench.receiver.put(message(id="1", key="k"))
        await until(lambda: bench.outcomes == [("1", "dead_letter")])
        assert bench.metric("stuck", "rejected") == 0


async def test_odd_values_are_carried_as_text() -> None:
    """No value of a driver or an error keeps a message from its dead letter."""

    class Odd:
        def __str__(self) -> str:
            raise ValueError("no text")

    async with running(always(Reject("no")), dead_letter=True) as bench:
        odd = message(id="1", partition=Odd(), delivery=2)
        bench.receiver.put(odd)
        await until(lambda: bench.dead)
    attributes = bench.dead[0].attributes
    assert attributes["gizmo-dl-source-partition"] == "(Odd)"
    assert attributes["gizmo-dl-deliveries"] == "2"


async def test_a_dead_letter_of_a_group_names_its_members() -> None:
    """The gravest is the first; the text of a group says only how many they are."""
    error = ExceptionGroup(
        "unhandled errors in a TaskGroup", [ValueError("odd"), ExceptionGroup("", [Reject("no")])]
    )
    async with running(always(error), dead_letter=True) as bench:
        bench.receiver.put(message(id="1"))
        await until(lambda: bench.dead)
    attributes = bench.dead[0].attributes
    assert attributes["gizmo-dl-reason"] == "no"
    expected = "gizmopy.errors.Reject: no; builtins.ValueError: odd"
    assert attributes["gizmo-dl-exception"] == expected
