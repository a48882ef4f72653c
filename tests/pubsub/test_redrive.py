"""Redrive: dead letters are moved back to the topics that they came from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gizmopy.errors import PubSubError, TopicNotFound, UsageError
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Driver, Receiver, Results, Sender
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import REDRIVEN, REDRIVEN_AT, Plan, Redrive, restored
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.support import until

QUIET = 0.1
_numbers = count(1)


class Queues:
    """A broker that outlives its connections, with topics that may reject messages."""

    def __init__(self, lease: float = 30.0) -> None:
        self._memory = MemoryDriver(lease=lease)
        self.capabilities = replace(
            self._memory.capabilities, process_local=False, client_retries=True
        )
        self.refused: dict[str, Exception] = {}
        """Topics that take nothing, and why."""
        self.gate = asyncio.Event()
        """A send waits until it is set."""
        self.gate.set()
        self.ack_error: Exception | None = None
        """The result of every ack."""
        self.extended = 0

    def sender(self, topic: str) -> Sender:
        return GatedSender(self._memory.sender(topic), self, topic)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        return WatchedReceiver(self._memory.receiver(topic, subscription, ordered=ordered), self)

    async def aclose(self) -> None:
        """Close the connection; the broker remains."""


class GatedSender:
    def __init__(self, sender: Sender, queues: Queues, topic: str) -> None:
        self.connect, self.aclose, self._send = sender.connect, sender.aclose, sender.send
        self._queues, self._topic = queues, topic

    async def send(self, batch: Sequence[Message]) -> Results:
        await self._queues.gate.wait()
        if self._topic in self._queues.refused:
            raise self._queues.refused[self._topic]
        return await self._send(batch)


class WatchedReceiver:
    def __init__(self, receiver: Receiver, queues: Queues) -> None:
        self.connect, self.receive, self.nack = receiver.connect, receiver.receive, receiver.nack
        self.status, self.aclose = receiver.status, receiver.aclose
        self._receiver, self._queues = receiver, queues

    async def ack(self, batch: Sequence[Message]) -> Results:
        error = self._queues.ack_error
        return await self._receiver.ack(batch) if error is None else [error] * len(batch)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        self._queues.extended += 1
        return await self._receiver.extend(batch, seconds)


async def none_revoked(partitions: object, seconds: float) -> None:
    """Revoke nothing: no message is in flight."""


class Reader:
    """A subscription to a topic that exists before the first message."""

    def __init__(self, driver: Driver, topic: str, subscription: str = "reader") -> None:
        self._driver, self._topic, self._subscription = driver, topic, subscription

    async def begin(self) -> None:
        """Create the subscription."""
        await self.read()

    async def read(self) -> list[Message]:
        """Return the messages without settling them."""
        receiver = self._driver.receiver(self._topic, self._subscription, ordered=False)
        await receiver.connect(none_revoked)
        messages = list(await receiver.receive(1000, 0))
        await receiver.aclose()
        return messages

    async def bodies(self) -> list[bytes | None]:
        return [message.body for message in await self.read()]


def dead(body: bytes = b"cat", *, source: str = "cats", key: str | None = None, **more: str) -> Any:
    """Return a dead letter as the engine makes it."""
    attributes = {
        "colour": "red",
        "dl-reason": "exhausted",
        "dl-exception": "builtins.ValueError: no",
        "dl-source-topic": source,
        "dl-message-id": "7",
    }
    number = str(next(_numbers))
    named = {name.replace("_", "-"): text for name, text in more.items()}
    return Message("dead", body, key=key, attributes=attributes | named, id=number)


async def fill(driver: Driver, *messages: Message, topic: str = "dead") -> Reader:
    """Publish dead letters to an existing subscription; return a reader of it."""
    reader = Reader(driver, topic, "redrive")
    await reader.begin()
    sender = driver.sender(topic)
    await sender.connect()
    await sender.send(messages)
    await sender.aclose()
    return reader


class Run(Redrive):
    """A run that records the callbacks."""

    def __init__(
        self,
        driver: Driver | Callable[[str], Driver],
        *,
        topics: dict[str, str] | None = None,
        subscriptions: dict[str, str] | None = None,
        **plan: Any,
    ) -> None:
        self.listed: list[Message] = []
        self.reasons: list[str] = []
        allowed = frozenset(("cats", "dogs", "dead"))
        defaults: dict[str, Any] = {"channel": "dead", "wait": QUIET, "from_topics": allowed}
        super().__init__(
            Plan(**defaults | plan),
            "queues://",
            topics=topics or {},
            subscriptions=subscriptions or {},
            on_listed=self.listed.append,
            on_failed=lambda _, reason: self.reasons.append(reason),
            open_driver=driver if callable(driver) else lambda url: driver,
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.redriven, self.left, self.failed


async def test_a_dead_letter_is_published_as_the_original_message() -> None:
    """Body, key and attributes are kept; of dl-* only the count and the date of the redrive."""
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


async def test_a_tombstone_goes_back() -> None:
    """A dead letter without a body is published without one."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    await fill(queues, Message("dead", None, key="k", attributes={"dl-source-topic": "cats"}))

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
    """Each redrive adds one to dl-redriven, up to a million; invalid text counts as 0."""
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
    """A dead letter without dl-source-topic fails, unless the plan names a channel."""
    queues = Queues()
    cats = Reader(queues, "cats")
    await cats.begin()
    letters = await fill(queues, Message("dead", b"stray"))

    run = Run(queues)
    await run.run()
    assert run.counts == (0, 0, 1)
    assert "no dl-source-topic" in run.reasons[0]
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
    assert (run.redriven, len(run.listed)) == (moved, listed)
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

    assert run.stopped.startswith("5 messages with 12000 bytes were not moved")
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


# Topics that dead letters may be published to


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
        Message("dead", b"x", attributes={"dl-source-topic": source}, id=str(number))
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


# Brokers that keep positions.


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

    assert run.redriven == 2
    assert broker.committed("dead", "redrive") == {0: 2}


async def test_a_log_cannot_be_filtered() -> None:
    """Without a way to skip messages, a match is rejected before anything is moved."""
    broker = LogBroker()
    with pytest.raises(UsageError, match="keeps positions"):
        await Run(broker, match="KeyError").run()


# Errors and interruptions.


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
