"""A service's channels: publishing, start, drain and close."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gizmopy.errors import PubSubError, Reject, StartError, TopicNotFound, UnknownScheme, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import (
    Capabilities,
    Channels,
    Driver,
    Message,
    RetryPolicy,
    Subscription,
    collect_subscriptions,
    subscribe,
)
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.engine.observer import Observer
from tests.pubsub.support import FakeReceiver, capabilities, no_wait, turns, until


class Cat(BaseModel):
    name: str


class Log:
    """Record the outcomes of messages and the drivers that were opened."""

    def __init__(self) -> None:
        self.settled: list[tuple[str, str]] = []
        self.urls: list[str] = []
        self.drivers: list[Driver] = []
        self.metrics = Metrics()

    def on_settle(self, message: Message, outcome: str, _: BaseException | None) -> None:
        self.settled.append((message.topic, outcome))

    def open_driver(self, url: str) -> Driver:
        self.urls.append(url)
        self.drivers.append(MemoryDriver())
        return self.drivers[-1]

    def channels(self, url: str = "memory://", **options: Any) -> Channels:
        return Channels(
            url,
            service="svc",
            metrics=self.metrics,
            on_settle=self.on_settle,
            sleep=no_wait,
            **({"open_driver": self.open_driver} | options),
        )


def collected(service: object) -> list[Subscription]:
    """Return the subscriptions of a service."""
    return collect_subscriptions(service, "svc")


class Service:
    """Handle cats; pass those named Tom on to the channel toms."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.cats: list[str] = []
        self.toms: list[str] = []

    @subscribe("cats", concurrency=4, order="key", dead_letter="dead-cats")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        self.cats.append(cat.name)
        if cat.name == "Tom":
            await self.channels.publish("toms", cat)
        elif cat.name == "Evil":
            raise Reject("no evil cats")

    @subscribe("toms")
    async def on_tom(self, cat: Cat) -> None:
        self.toms.append(cat.name)

    @subscribe("dead-cats")
    async def on_dead(self, message: Message) -> None:
        self.toms.append(message.attributes["gizmo-dl-reason"])


async def test_published_messages_are_handled() -> None:
    """Messages are handled and settled, including those that handlers publish."""
    log = Log()
    async with log.channels() as channels:
        service = Service(channels)
        await channels.start(collected(service))
        for name in ("Tom", "Evil", "Kit"):
            await channels.publish("cats", Cat(name=name), key=name)
        await channels.publish("cats", b"no cat")
        await channels.idle()
        assert sorted(service.cats) == ["Evil", "Kit", "Tom"]
        assert sorted(service.toms) == ["Tom", "no evil cats", "undecodable"]
    assert sorted(log.settled) == [
        ("cats", "ack"),
        ("cats", "ack"),
        ("cats", "dead_letter"),
        ("cats", "dead_letter"),
        ("dead-cats", "ack"),
        ("dead-cats", "ack"),
        ("toms", "ack"),
    ]
    text = log.metrics.render().decode()
    assert 'gizmo_pubsub_received_total{subscription="svc",topic="cats"} 4.0' in text
    assert 'gizmo_pubsub_settled_total{outcome="ack",subscription="svc",topic="cats"} 2.0' in text
    assert 'gizmo_pubsub_in_flight{subscription="svc",topic="cats"} 0.0' in text
    assert 'gizmo_pubsub_publish_seconds_count{topic="cats"} 4.0' in text


async def test_a_drain_empties_the_queues_of_this_process() -> None:
    """It handles queued messages, those of handlers, and those that wait for redelivery."""
    log = Log()

    class Flaky:
        handled = 0

        @subscribe("in", retry=RetryPolicy(attempts=1, base=0.001))
        async def on_in(self, message: Message) -> None:
            if message.delivery < 3:
                raise ValueError
            await channels.publish("out", b"x")

        @subscribe("out")
        async def on_out(self, message: Message) -> None:
            await asyncio.sleep(0)
            self.handled += 1

    service = Flaky()
    async with log.channels() as channels:
        await channels.start(collected(service))
        run = asyncio.create_task(channels.run())
        for _ in range(20):
            await channels.publish("in", b"x")
        channels.stop_receiving()
        report = await channels.drain(10)
        await run
        assert service.handled == 20
        assert report.finished >= 40
        assert report[1:] == (0, 0, 0)


async def test_a_drain_that_cannot_empty_the_queues_reports_the_rest() -> None:
    """At the deadline the report counts cancelled and remaining messages."""
    started = asyncio.Event()

    class Slow:
        @subscribe("in", max_in_flight=2)
        async def on_in(self, message: Message) -> None:
            started.set()
            await asyncio.Event().wait()

    async with Log().channels() as channels:
        await channels.start(collected(Slow()))
        for _ in range(5):
            await channels.publish("in", b"x")
        await started.wait()
        assert await channels.drain(0) == (0, 4, 1, 0)


class Seen(Observer):
    """Record one event of publishers and one of subscribers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def published(self, message: Message, seconds: float) -> None:
        self.events.append(("published", message.topic))

    def received(self, messages: Sequence[Message]) -> None:
        self.events += [("received", message.topic) for message in messages]


async def test_observers_see_all_publishers_and_subscribers() -> None:
    """The observers of the channels get the events of each publisher and each subscriber."""
    seen = Seen()
    async with Log().channels(observers=[seen]) as channels:
        await channels.start(collected(Service(channels)))
        await channels.publish("cats", Cat(name="Tom"))
        await channels.idle()
    assert sorted(seen.events) == [
        ("published", "cats"),
        ("published", "toms"),
        ("received", "cats"),
        ("received", "toms"),
    ]


async def test_many_are_published_in_one_call() -> None:
    """Each value has its own result and its own key."""
    log = Log()
    async with log.channels() as channels:
        results = await channels.publish_many("cats", [Cat(name="Tom"), object()], key=repr)
        assert results[0] is None
        assert isinstance(results[1], UsageError)


class Elsewhere:
    """A driver outside the process."""

    capabilities: Capabilities = capabilities()

    def __init__(self) -> None:
        self.receivers: list[FakeReceiver] = []
        self.memory = MemoryDriver()
        self.error: Exception | None = None
        self.closed = 0

    def sender(self, topic: str) -> Any:
        if self.error is not None:
            raise self.error
        return self.memory.sender(topic)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> FakeReceiver:
        self.receivers.append(FakeReceiver())
        if self.error is not None:
            self.receivers[-1].connects.append(self.error)
        return self.receivers[-1]

    async def aclose(self) -> None:
        self.closed += 1


class Two:
    def __init__(self) -> None:
        self.handled: list[str] = []

    @subscribe("near")
    async def on_near(self, message: Message) -> None:
        self.handled.append("near")

    @subscribe("far")
    async def on_far(self, message: Message) -> None:
        self.handled.append("far")


def two_drivers(far: Elsewhere) -> Any:
    """Return an open_driver for one broker in this process and one outside."""
    return lambda url: far if url.startswith("far") else MemoryDriver()


async def test_stop_receiving_stops_only_brokers_outside_the_process() -> None:
    """Brokers in this process go on until the drain, since their messages would be lost."""
    far, service = Elsewhere(), Two()
    options = {"open_driver": two_drivers(far), "subscriptions": {"FAR": "far://host/far"}}
    async with Log().channels(**options) as channels:
        await channels.start(collected(service))
        await turns()
        channels.stop_receiving()
        far.receivers[0].put(Message("far", b"x", id="1"))
        await channels.publish("near", b"x")
        await channels.idle()
        await until(lambda: far.receivers[0].nacked)
        assert service.handled == ["near"]
    assert far.receivers[0].closed
    assert far.closed == 1


async def test_an_engine_that_dies_is_replaced() -> None:
    """Another receiver takes over, the others go on, and the drain still works."""
    far = Elsewhere()
    options = {"open_driver": two_drivers(far), "subscriptions": {"FAR": "far://host/far"}}
    async with Log().channels(**options) as channels:
        await channels.start(collected(Two()))
        run = asyncio.create_task(channels.run())
        far.receivers[0].fail_receive(PubSubError("access denied", transient=False))
        await until(lambda: len(far.receivers) == 2)
        await until(lambda: far.receivers[1].limits)
        assert far.receivers[0].closed
        assert not run.done()
        assert await channels.drain(1) == (0, 0, 0, 0)
        await run


async def test_a_failed_start_names_the_channel_and_stops_the_others() -> None:
    """The error names channel, handler, destination and remedy."""
    far = Elsewhere()
    far.error = TopicNotFound("no queue 'far'")
    options = {
        "open_driver": two_drivers(far),
        "subscriptions": {"FAR": "far://me:secret@host/far"},
    }
    async with Log().channels(**options) as channels:
        with pytest.raises(StartError) as caught:
            await channels.start(collected(Two()))
        assert channels.describe() == []
    text = str(caught.value)
    assert "channel 'far' (Two.on_far)" in text
    assert "far://host/far" in text
    assert "no queue 'far'" in text
    assert "GIZMO_SUBSCRIPTION_FAR" in text
    assert "secret" not in text
    assert far.receivers[0].closed


async def test_only_a_missing_topic_has_the_remedy_to_create_it() -> None:
    """A refused login has another remedy than a missing queue."""
    far = Elsewhere()
    far.error = PubSubError("b1 refuses to log in 'me'; check the password", transient=False)
    options = {"open_driver": two_drivers(far), "subscriptions": {"FAR": "far://host/far"}}
    async with Log().channels(**options) as channels:
        with pytest.raises(StartError, match=r"check the password$"):
            await channels.start(collected(Two()))


async def test_an_unknown_dead_letter_channel_fails_the_start() -> None:
    """The error comes before the first message needs the channel."""
    far = Elsewhere()
    far.error = TopicNotFound("no topic 'dead-cats'")
    options = {"open_driver": two_drivers(far), "topics": {"DEAD_CATS": "far://host/dead"}}
    async with Log().channels(**options) as channels:
        with pytest.raises(StartError, match=r"dead-letter channel 'dead-cats'.*GIZMO_TOPIC_DEAD"):
            await channels.start(collected(Service(channels)))


async def test_an_unknown_scheme_fails_the_start() -> None:
    """The error lists the known schemes."""
    async with Channels("nats://host", service="svc", metrics=Metrics()) as channels:
        with pytest.raises(StartError, match=r"channel 'near'.*memory://"):
            await channels.start(collected(Two()))
        with pytest.raises(UnknownScheme):
            await channels.publish("near", b"x")


class Cycle:
    @subscribe("a", dead_letter="b")
    async def on_a(self, message: Message) -> None: ...

    @subscribe("b", dead_letter="c")
    async def on_b(self, message: Message) -> None: ...


async def test_dead_letters_that_come_back_to_their_topic_are_refused_at_the_start() -> None:
    """The places decide, not the names of the channels."""
    async with Log().channels() as channels:
        await channels.start(collected(Cycle()))
    async with Log().channels(topics={"C": "memory:///a", "A": "memory:///a?x=1"}) as channels:
        with pytest.raises(StartError, match="cycle"):
            await channels.start(collected(Cycle()))


class TwoOfOneQueue:
    @subscribe("cats", subscription="billing")
    async def on_billing(self, message: Message) -> None: ...

    @subscribe("cats", subscription="mail")
    async def on_mail(self, message: Message) -> None: ...


async def test_two_subscriptions_of_one_queue_are_refused_at_the_start() -> None:
    """On a broker without fan-out each would get a part of the messages."""
    options: dict[str, Any] = {"open_driver": lambda _: MemoryDriver(fan_out=False)}
    async with Log().channels(**options) as channels:
        with pytest.raises(StartError) as caught:
            await channels.start(collected(TwoOfOneQueue()))
    text = str(caught.value)
    assert "TwoOfOneQueue.on_billing (subscription 'billing')" in text
    assert "TwoOfOneQueue.on_mail (subscription 'mail')" in text
    assert "memory:///cats, which is one queue" in text
    async with Log().channels() as channels:
        await channels.start(collected(TwoOfOneQueue()))
    async with Log().channels(**options) as channels:
        await channels.start(collected(Two()))


async def test_channels_share_drivers_by_url() -> None:
    """Channels whose URLs have the same driver share it."""
    log = Log()
    topics = {
        "CATS_OF_2": "memory://host/other?lease=5",
        "DOGS": "memory://host?lease=5",
        "BIRDS": "memory://host/b?lease=6",
    }
    async with log.channels("memory://default?x=1", topics=topics) as channels:
        got: list[str] = []
        for driver in ("cats-of.2", "dogs", "birds", "fish"):
            await channels.publish(driver, b"x")
        got += [publisher.topic for publisher in channels._publishers.connected.values()]
    assert got == ["other", "dogs", "b", "fish"]
    assert log.urls == ["memory://host?lease=5", "memory://host?lease=6", "memory://default?x=1"]


async def test_a_subscription_has_its_own_url_or_that_of_its_topic() -> None:
    """Its own URL is used first, then the topic's, then the default."""
    options: Any = {
        "topics": {"NEAR": "memory://t/near-topic", "FAR": "memory://t/far-topic"},
        "subscriptions": {"FAR": "memory://s:pw@s/far-queue?x=1"},
    }
    async with Log().channels(**options) as channels:
        await channels.start(collected(Two()))
        rows = channels.describe()
    assert [(row.channel, row.url) for row in rows] == [
        ("near", "memory://t/near-topic"),
        ("far", "memory://s/far-queue"),
    ]
    assert rows[0][2:] == ("svc", "Two.on_near", 1, "none")


async def test_two_channels_with_one_environment_name_are_rejected() -> None:
    """Two channels with one environment name fail the start if that name is set."""

    class Collide:
        @subscribe("a-b")
        async def one(self, message: Message) -> None:
            pass

        @subscribe("a.b")
        async def two(self, message: Message) -> None:
            pass

    async with Log().channels(topics={"A_B": "memory://x/y"}) as channels:
        with pytest.raises(StartError, match=r"'a-b' and 'a\.b' are both A_B"):
            await channels.start(collected(Collide()))
    async with Log().channels() as channels:
        await channels.start(collected(Collide()))


async def test_two_handlers_of_one_subscription_are_rejected() -> None:
    """Two handlers of one topic and subscription would each get some messages."""
    topics = {"NEAR": "memory://x/same", "FAR": "memory://x/same"}
    async with Log().channels(topics=topics) as channels:
        with pytest.raises(StartError, match=r"Two.on_near and Two.on_far both handle"):
            await channels.start(collected(Two()))


async def test_a_topic_in_the_default_url_is_for_one_channel() -> None:
    """The first channel uses that topic; a second one without its own URL is rejected."""
    log = Log()
    topics = {"DOGS": "memory://host/hounds"}
    async with log.channels("memory://host/topic?a=b", topics=topics) as channels:
        await channels.publish("cats", b"x")
        await channels.publish("dogs", b"x")
        with pytest.raises(StartError, match=r"'cats' and 'birds' .*GIZMO_TOPIC_BIRDS"):
            await channels.publish("birds", b"x")
    assert log.urls == ["memory://host?a=b", "memory://host"]


async def test_the_topic_of_the_default_url_is_shown_with_its_channel() -> None:
    """The row of the channel shows the topic of the URL."""

    class Cats:
        @subscribe("cats")
        async def on_cat(self, message: Message) -> None:
            pass

    async with Log().channels("memory://host/topic") as channels:
        await channels.start(collected(Cats()))
        (row,) = channels.describe()
    assert (row.channel, row.url) == ("cats", "memory://host/topic")


async def test_a_publisher_connects_once() -> None:
    """Concurrent first publishes share one publisher, and one driver."""
    log = Log()
    async with log.channels() as channels:
        await asyncio.gather(*(channels.publish("cats", b"x") for _ in range(20)))
        assert len(channels._publishers.connected) == 1
    assert len(log.drivers) == 1


async def test_publishing_on_closed_channels_raises() -> None:
    """Closed channels raise UsageError, with and without a publisher."""
    async with Log().channels() as channels:
        await channels.publish("cats", b"x")
    for channel in ("cats", "dogs"):
        with pytest.raises(UsageError, match="closed"):
            await channels.publish(channel, b"x")


async def test_a_publisher_that_cannot_connect_tries_again_with_the_next_publish() -> None:
    """The next publish connects again."""
    far = Elsewhere()
    far.error = TopicNotFound("no topic")
    async with Log().channels("far://host", open_driver=lambda _: far) as channels:
        with pytest.raises(TopicNotFound):
            await channels.publish("cats", b"x")
        far.error = None
        await channels.publish("cats", b"x")


class _Slow:
    """A sender that connects when it may, and cannot close."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.closes = 0

    async def connect(self) -> None:
        await self.gate.wait()

    async def send(self, batch: Sequence[Message]) -> list[None]:
        return [None] * len(batch)

    async def aclose(self) -> None:
        self.closes += 1
        raise RuntimeError("a bug")


async def test_a_publisher_that_connects_too_late_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its caller gets an error, and an error of its close does not keep the others open."""
    slow, far = _Slow(), Elsewhere()
    far.sender = lambda topic: slow  # type: ignore[method-assign]  # a fake of a fake
    async with Log().channels("far://host", open_driver=lambda _: far) as channels:
        late = asyncio.create_task(channels.publish("cats", b"x"))
        await turns()
    assert far.closed == 1
    slow.gate.set()
    with pytest.raises(UsageError, match="closed"):
        await late
    assert slow.closes == 1
    assert "closing the publisher of channel 'cats' failed: RuntimeError: a bug" in caplog.text


class _Together:
    """A driver, or a sender, whose close ends when the close of all its siblings has begun."""

    capabilities: Capabilities = capabilities()

    def __init__(self, name: str, barrier: asyncio.Barrier, log: list[str]) -> None:
        self._name = name
        self._barrier = barrier
        self._log = log
        self.senders: list[_Together] = []

    def sender(self, topic: str) -> Any:
        return self.senders.pop()

    async def connect(self) -> None:
        pass

    async def send(self, batch: Sequence[Message]) -> list[None]:
        return [None] * len(batch)

    async def aclose(self) -> None:
        await self._barrier.wait()
        self._log.append(self._name)


async def test_publishers_then_drivers_are_closed_side_by_side() -> None:
    """Closing takes as long as the slowest publisher and driver, however many there are."""
    senders, drivers = asyncio.Barrier(3), asyncio.Barrier(2)
    log: list[str] = []
    opened = {name: _Together("driver", drivers, log) for name in ("far://one", "far://two")}
    for driver, count in zip(opened.values(), (2, 1), strict=True):
        driver.senders = [_Together("publisher", senders, log) for _ in range(count)]
    topics = {"DOGS": "far://two/dogs"}
    async with Log().channels(
        "far://one", topics=topics, open_driver=opened.__getitem__
    ) as channels:
        for channel in ("cats", "mice", "dogs"):
            await channels.publish(channel, b"x")
    assert log == ["publisher"] * 3 + ["driver"] * 2


async def test_channels_close_even_if_their_drain_is_cancelled() -> None:
    """Publishers and drivers are closed even if the drain is cancelled."""
    far, started = Elsewhere(), asyncio.Event()

    class Stubborn:
        @subscribe("far")
        async def on_far(self, message: Message) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await turns()

    async def live() -> None:
        async with Log().channels("far://host", open_driver=lambda _: far) as channels:
            await channels.start(collected(Stubborn()))
            await channels.publish("cats", b"x")
            far.receivers[0].put(Message("far", b"x", id="1"))
            await started.wait()

    life = asyncio.create_task(live())
    await started.wait()
    await turns(5)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert far.closed == 1
    assert far.receivers[0].closed


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=40),
    failures=st.lists(st.sampled_from(["ok", "error", "yield"]), max_size=80),
    concurrency=st.integers(1, 6),
)
def test_first_handlings_of_a_key_ascend_and_nothing_is_lost(
    keys: Sequence[str], failures: list[str], concurrency: int
) -> None:
    """Under random failures and any concurrency each key is handled in order."""
    asyncio.run(_handle_all(keys, failures, concurrency))


async def _handle_all(keys: Sequence[str], failures: list[str], concurrency: int) -> None:
    finished: list[tuple[str | None, int]] = []
    running: set[str | None] = set()

    class Keyed:
        @subscribe("in", concurrency=concurrency, order="key", retry=RetryPolicy(attempts=2))
        async def on_in(self, number: int, message: Message) -> None:
            assert message.key not in running
            running.add(message.key)
            what = failures.pop() if failures else "ok"
            await asyncio.sleep(0)
            running.remove(message.key)
            if what == "error":
                raise ValueError
            finished.append((message.key, number))

    async with Log().channels() as channels:
        await channels.start(collected(Keyed()))
        for number, key in enumerate(keys):
            await channels.publish("in", number, key=key)
        await channels.idle()
    assert sorted(n for _, n in finished) == list(range(len(keys)))
    for key in "abc":
        numbers = [n for k, n in finished if k == key]
        assert numbers == sorted(numbers)
