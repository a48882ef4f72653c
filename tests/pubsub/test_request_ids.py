"""The id of a request travels with the messages that are its results, through all handlers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from gizmopy import Message, Service, post, subscribe
from gizmopy.observe.context import message_id, request_id
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Publisher
from gizmopy.pubsub.brokers.memory import MemoryDriver
from pubsubtest import FakeSubscriber, serve
from pubsubtest.publisher import RecordingSender
from tests.pubsub.support import message, running, until

GIVEN = "request-7"
Seen = list[tuple[str, str, str]]


class Chain(Service):
    """A request that publishes a message, whose handler publishes another."""

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.seen: Seen = []

    def note(self, received: Message) -> None:
        """Record the ids of the context and of the message."""
        self.seen.append((request_id.get(), received.request_id, message_id.get()))

    @post("/start")
    async def start(self) -> int:
        await self.publish("first", "x")
        return 1

    @subscribe("first")
    async def on_first(self, text: str, received: Message) -> None:
        self.note(received)
        await self.publish("second", received)

    @subscribe("second", batch_size=2)
    async def on_second(self, received: list[Message]) -> None:
        self.note(received[0])


async def test_the_id_of_a_request_reaches_all_handlers() -> None:
    """Handlers, and the messages that they publish, have it."""
    async with serve(Chain) as served:
        async with served.http.post("/start", headers={"X-Request-ID": GIVEN}) as response:
            assert response.status == 200
        await served.idle()
        (published,) = served.published("second")
        first, second = served.service.seen
    assert published.attributes["request-id"] == GIVEN
    assert first[:2] == second[:2] == (GIVEN, GIVEN)
    assert first[2]
    assert second[2]


# Publish.


async def publish(given: dict[str, str] | None = None, value: object = "x") -> dict[str, str]:
    """Return the attributes of a message that is published while a request is handled."""
    sender = RecordingSender()
    limits = MemoryDriver().capabilities
    async with Publisher(sender, "t", limits=limits, metrics=Metrics()) as publisher:
        token = request_id.set(GIVEN)
        await publisher.publish(value, attributes=given)
        request_id.reset(token)
    return dict(sender.sent[0].attributes)


async def test_a_message_that_is_published_has_the_id() -> None:
    """It is added behind the others."""
    assert (await publish({"a": "1"}))["request-id"] == GIVEN


@pytest.mark.parametrize("value", ["x", Message("t", b"", attributes={"request-id": "own"})])
async def test_an_id_that_a_message_has_is_kept(value: object) -> None:
    """A message that is forwarded, or given one, keeps it."""
    given = {"request-id": "own"} if isinstance(value, str) else None
    assert (await publish(given, value))["request-id"] == "own"


@pytest.mark.parametrize(("most", "expected"), [(2, False), (3, True)])
async def test_a_message_without_room_for_the_id_is_published_without(
    most: int, expected: bool
) -> None:
    """It has as many attributes as the broker takes, and would be refused."""
    sender = RecordingSender()
    limits = replace(MemoryDriver().capabilities, message_attributes=most)
    async with Publisher(sender, "t", limits=limits, metrics=Metrics()) as publisher:
        token = request_id.set(GIVEN)
        await publisher.publish("x", attributes={"a": "1"})
        request_id.reset(token)
    assert ("request-id" in sender.sent[0].attributes) is expected


async def test_without_a_request_nothing_is_added() -> None:
    """A message of a job has no id of a request."""
    sender = RecordingSender()
    limits = MemoryDriver().capabilities
    async with Publisher(sender, "t", limits=limits, metrics=Metrics()) as publisher:
        await publisher.publish(b"x")
    assert "request-id" not in sender.sent[0].attributes


# Handle.


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "é", "x" * 129, "\udcff"])
async def test_an_id_that_is_not_well_formed_is_ignored(given: str) -> None:
    """Its sender may be anybody, and it goes into logs and other messages."""
    seen: list[str] = []

    async def handle(received: Message) -> None:
        seen.extend((request_id.get(), received.request_id))

    (outcome,) = await FakeSubscriber(handle, concurrency=1).run(
        [Message("t", b"", attributes={"request-id": given})]
    )
    assert (outcome, seen) == ("ack", ["", ""])


async def test_no_message_has_the_id_of_another() -> None:
    """Handlers run one after the other in one task, and the id is that of each message."""
    seen: list[str] = []

    async def handle(received: Message) -> None:
        seen.append(request_id.get())
        if len(seen) % 2:
            await asyncio.sleep(0)

    given = [{"request-id": "1"}, {}, {"request-id": "1"}, {"request-id": "2"}, {}]
    async with running(handle) as bench:
        bench.receiver.put(*(message(id=str(n), attributes=a) for n, a in enumerate(given)))
        await until(lambda: len(bench.settled) == len(given))
    assert seen == ["1", "", "1", "2", ""]


async def test_a_batch_has_the_id_that_all_its_messages_share() -> None:
    """With several requests there is none; the ids of the messages are there, ten at most."""
    seen: Seen = []

    async def handle(received: list[Message]) -> None:
        seen.append((request_id.get(), message_id.get(), ""))

    fake = FakeSubscriber(handle, batch_size=12)
    await fake.run([message(id=n, attributes={"request-id": "1"}) for n in "ab"])
    await fake.run([message(id=n, attributes={"request-id": n}) for n in "ab"])
    await fake.run([message(id=n) for n in "abcdefghijkl"])
    assert seen == [
        ("1", "a, b", ""),
        ("", "a, b", ""),
        ("", "a, b, c, d, e, f, g, h, i, j, … (12 messages)", ""),
    ]


@pytest.mark.parametrize("batch_size", [0, 2])
async def test_the_log_of_a_failure_has_the_ids_of_its_message(
    batch_size: int,
) -> None:
    """Each failed message of a batch is logged with its own ids, and its trace."""

    class Ids(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append((request_id.get(), message_id.get()))

    async def handle(received: Any) -> None:
        raise ValueError

    handle.__annotations__["received"] = list[Message] if batch_size else Message
    logged: list[tuple[str, str]] = []
    handler = Ids()
    logger = logging.getLogger("gizmopy.pubsub.failures")
    logger.addHandler(handler)
    fake = FakeSubscriber(handle, batch_size=batch_size, dead_letter="dead", max_deliveries=1)
    given = [message(id=n, attributes={"request-id": f"r{n}"}) for n in "ab"]
    assert await fake.run(given) == ["dead_letter", "dead_letter"]
    logger.removeHandler(handler)
    assert {("ra", "a"), ("rb", "b")} == set(logged)
