"""A message may be published with a delay, if its broker can keep it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gizmopy import Message, Service, subscribe
from gizmopy.errors import UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, collect_subscriptions, open_driver
from gizmopy.pubsub.brokers.memory import MemoryDriver
from pubsubtest import Clock, Recorded, RecordingPublisher, serve
from tests.pubsub.support import no_wait, turns, until

SOON = timedelta(seconds=30)


def due_in(message: Recorded) -> int:
    """Return in how many seconds a recorded message is due, about."""
    assert message.deliver_at is not None
    return round((message.deliver_at - datetime.now(UTC)).total_seconds())


async def test_a_delay_is_a_duration_or_a_time() -> None:
    """Seconds, a timedelta, a text, or a datetime in any time zone."""
    zone = datetime.now(UTC).astimezone().tzinfo
    async with RecordingPublisher() as out:
        for delay in (30, 30.0, SOON, "30s"):
            await out.publish(b"x", delay=delay)
        for now in (datetime.now(UTC), datetime.now(zone)):
            await out.publish(b"x", at=now + SOON)
        await out.publish_many([b"x", Message("t", b"x")], delay=30)
        assert [due_in(message) for message in out.messages] == [30] * 8
        assert {message.deliver_at.tzinfo for message in out.sender.sent if message.deliver_at} == {
            UTC
        }


async def test_each_of_many_messages_may_have_its_own_time() -> None:
    """The time of a Message counts, unless the call has another one."""
    at = [datetime.now(UTC) + timedelta(seconds=n) for n in (10, 20)]
    messages = [Message("t", b"x", deliver_at=each) for each in at]
    async with RecordingPublisher() as out:
        await out.publish_many(messages)
        await out.publish(messages[0], delay=99)
        assert [due_in(message) for message in out.messages] == [10, 20, 99]


async def test_a_message_that_is_due_already_has_no_time() -> None:
    """No broker needs to know that a message is not delayed."""
    async with RecordingPublisher() as out:
        await out.publish(b"x", delay=0)
        await out.publish(b"x", at=datetime(2020, 1, 1, tzinfo=UTC))
        await out.publish(b"x")
        assert [message.deliver_at for message in out.messages] == [None] * 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"delay": -1}, "-1"),
        ({"delay": "soon"}, "delay="),
        ({"delay": float("nan")}, "delay="),
        ({"delay": 1e300}, "delay="),
        ({"at": 30}, "is not a datetime"),
        ({"at": datetime(2030, 1, 1)}, "no time zone"),  # noqa: DTZ001 - that is the mistake
        ({"delay": 1, "at": datetime.now(UTC)}, "contradict"),
    ],
)
async def test_a_delay_that_is_none_is_refused(wrong: dict[str, Any], reason: str) -> None:
    """The error has the value, and nothing is sent."""
    async with RecordingPublisher() as out:
        with pytest.raises(UsageError, match=reason):
            await out.publish(b"x", **wrong)
        assert out.messages == []


async def test_a_broker_that_cannot_delay_refuses_a_delay() -> None:
    """The error names the topic and the remedy; without a delay it publishes."""
    async with RecordingPublisher("cats", send_delay=None) as out:
        with pytest.raises(UsageError, match="'cats' cannot delay a message; publish it without"):
            await out.publish(b"x", delay=1)
        (error,) = await out.publish_many([b"x"], at=datetime.now(UTC) + SOON)
        assert isinstance(error, UsageError)
        await out.publish(b"x")
    assert open_driver("kafka://127.0.0.1:1").capabilities.send_delay is None


async def test_a_delay_above_that_of_the_broker_is_refused() -> None:
    """SQS, for example, keeps a message for 15 minutes at most."""
    async with RecordingPublisher(send_delay=900) as out:
        await out.publish(b"x", delay="15m")
        with pytest.raises(UsageError, match="by 900 s at most, not by 1000 s"):
            await out.publish(b"x", delay=1000)


class Reminders(Service):
    """Publish to itself, later."""

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings)
        self.seen: list[bytes | None] = []

    @subscribe("reminders", order="key")
    async def on_reminder(self, message: Message) -> None:
        self.seen.append(message.body)


async def test_a_test_moves_the_clock_to_the_time_of_a_message() -> None:
    """It waits, holds up no other of its key, and ``idle`` does not wait for it."""
    clock = Clock()
    async with serve(Reminders, clock=clock) as served:
        await served.service.publish("reminders", b"later", key="a", delay=60)
        await served.service.publish("reminders", b"now", key="a")
        await clock.advance(59)
        await served.idle()
        assert served.service.seen == [b"now"]
        await clock.advance(2)
        await served.idle()
        assert served.service.seen == [b"now", b"later"]
        assert due_in(served.published("reminders")[0]) in (59, 60)


async def test_a_test_without_a_clock_gets_a_delayed_message_at_once() -> None:
    """As it does with retries; what was published has its time."""
    async with serve(Reminders) as served:
        await served.service.publish("reminders", b"later", delay="1h")
        await served.idle()
        assert served.service.seen == [b"later"]
        assert due_in(served.published("reminders")[0]) == 3600


async def test_a_drain_does_not_wait_for_delayed_messages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broker in the process loses them, as all of its messages: the log and the report say so."""
    service = Reminders()
    channels = Channels("memory://", service="svc", metrics=Metrics(), sleep=no_wait)
    async with channels:
        await channels.start(collect_subscriptions(service, "svc"))
        await channels.publish("reminders", b"later", delay="1h")
        with caplog.at_level(logging.WARNING, "gizmopy.pubsub.subscriber"):
            report = await channels.drain(60)
    assert report.released == 1
    assert "1 messages of reminders/svc were published with a delay" in caplog.text


async def test_memory_counts_delayed_messages_apart() -> None:
    """They are neither in the backlog nor in flight."""
    clock, driver = Clock(), None
    driver = MemoryDriver(clock=clock)
    receiver = driver.receiver("t", "s", ordered=True)
    await receiver.connect(lambda *_: turns(0))
    sender = driver.sender("t")
    due = datetime.now(UTC) + SOON
    later = [Message("t", b"later", key="k", deliver_at=due) for _ in range(3)]
    await sender.send([*later, Message("t", b"now", key="k")])
    assert (receiver.status().backlog, receiver.status().delayed) == (1, 3)
    measured = await receiver.measure()
    assert (measured.backlog, measured.in_flight, measured.delayed) == (1, 0, 3)
    (now,) = await receiver.receive(10, 0)
    assert now.body == b"now"
    assert now.deliver_at is None
    assert await receiver.ack([now]) == [None]
    await clock.advance(29)
    assert await receiver.receive(10, 0) == []
    await clock.advance(1)
    assert [message.body for message in await receiver.receive(10, 0)] == [b"later"] * 3
    assert (receiver.status().backlog, receiver.status().delayed) == (0, 0)


async def test_a_pending_receive_wakes_for_a_message_that_is_due() -> None:
    """It need not poll."""
    clock = Clock()
    driver = MemoryDriver(clock=clock)
    receiver = driver.receiver("t", "s", ordered=False)
    await receiver.connect(lambda *_: turns(0))
    pending = asyncio.create_task(receiver.receive(10, 1000))
    await turns()
    due = datetime.now(UTC) + SOON
    await driver.sender("t").send([Message("t", b"later", deliver_at=due)])
    await clock.advance(31)
    await until(pending.done)
    assert [message.body for message in await pending] == [b"later"]
