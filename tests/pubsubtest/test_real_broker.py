"""serve(broker=…): the real daemon on a broker outside, with topics of its own."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import pubsubtest
from gizmopy import Message, Reject, Retry, Service, Settings, post, subscribe
from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError, StartError, UsageError
from gizmopy.pubsub import registry
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.support import turns, until

URL = "logs://host"


class Logs:
    """A broker whose topics must exist, and a record of those that are made and removed."""

    def __init__(self) -> None:
        self.broker = LogBroker(partitions=2)
        self.made: dict[str, tuple[str, ...]] = {}
        """The subscriptions of each topic."""
        self.removing: list[str] = []
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.removed: list[str] = []
        self.errors: dict[str, Exception] = {}
        """What is raised for topics whose names begin so, when they are made."""
        self.removal_error: Exception | None = None

    @asynccontextmanager
    async def provision(
        self, url: str, topic: str, subscriptions: Sequence[str]
    ) -> AsyncIterator[None]:
        """Make a topic, as slowly as a real broker."""
        await asyncio.sleep(0)
        for start, error in self.errors.items():
            if topic.startswith(start):
                raise error
        self.made[topic] = tuple(subscriptions)
        try:
            yield
        finally:
            self.removing.append(topic)
            await self.may_remove.wait()
            self.removed.append(topic)
            if self.removal_error is not None:
                raise self.removal_error

    @property
    def names(self) -> list[str]:
        """The names of all topics that were made, without the mark of their run."""
        return sorted(topic.rpartition("-")[0] for topic in self.made)

    def check_clean(self) -> None:
        """Check that all topics were removed, and that no other ever had a message."""
        assert sorted(self.removed) == sorted(self.made)
        assert set(self.broker._topics) <= set(self.made)


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    """Register logs:// with a function that makes topics."""
    logs, module = Logs(), ModuleType("thirdparty_logs")
    module.open_driver = lambda url: logs.broker  # type: ignore[attr-defined]  # set here
    module.provision = logs.provision  # type: ignore[attr-defined]  # set here
    monkeypatch.setitem(sys.modules, "thirdparty_logs", module)
    points = [
        EntryPoint("logs", "thirdparty_logs:open_driver", registry.GROUP),
        EntryPoint("logs", "thirdparty_logs:provision", registry.PROVISION_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: points)
    return logs


class Cat(BaseModel):
    name: str


class Cats(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.seen: list[Message] = []
        self.kittens = 0

    @post("/cats")
    async def post_cat(self, cat: Cat) -> None:
        await self.publish("cats", cat, key=cat.name, attributes={"colour": "black"})

    @post("/news")
    async def post_news(self, cat: Cat) -> None:
        await self.publish("news", cat)

    @subscribe("cats", dead_letter="cats.dead")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        self.seen.append(message)
        if cat.name == "shy" and message.attempt == 1:
            raise Retry(after=3600)
        if cat.name == "bad":
            raise Reject("a bad cat")
        if cat.name == "mother":
            for number in range(3):
                await self.publish("kittens", number)

    @subscribe("kittens")
    async def on_kitten(self, number: int) -> None:
        self.kittens += 1

    @subscribe("kittens", subscription="count")
    async def count_kitten(self, number: int) -> None:
        self.kittens += 1


# Messages.


async def test_messages_have_the_names_of_their_channels(logs: Logs) -> None:
    """In the service, in its dead letters, and in published() and deliver()."""
    async with pubsubtest.serve(Cats, broker=URL) as cats:
        async with cats.http.post("/cats", json={"name": "Tom"}) as response:
            assert response.status in (200, 204)
        await cats.idle()
        assert await cats.deliver("cats", Cat(name="bad"), key="k") == "dead_letter"
        (tom,) = cats.published("cats")
        (dead,) = cats.published("cats.dead")
        seen, bad = cats.service.seen
    assert (tom.topic, tom.key, tom.value(Cat)) == ("cats", "Tom", Cat(name="Tom"))
    assert (seen.topic, seen.subscription, seen.key) == ("cats", "cats", "Tom")
    assert seen.attributes == tom.attributes
    assert bad.attributes == {"content-type": "application/json"}
    assert (dead.topic, dead.attributes["gizmo-dl-source-topic"]) == ("cats.dead", "cats")
    logs.check_clean()


async def test_idle_waits_for_messages_that_follow_from_others() -> None:
    """For each subscription; retries are shortened."""
    async with pubsubtest.serve(Cats, broker=URL) as cats:
        assert await cats.deliver("cats", Cat(name="mother")) == "ack"
        await cats.idle()
        assert cats.service.kittens == 6
        assert await cats.deliver("cats", Cat(name="shy")) == "ack"
        assert len(cats.service.seen) == 3


async def test_deliver_knows_its_message_whatever_the_id() -> None:
    """Two messages with one id have their own outcomes."""
    async with pubsubtest.serve(Cats, broker=URL) as cats:
        good, bad = (
            Message("cats", b'{"name": "%s"}' % name, id="same", attributes={"a": "1"})
            for name in (b"Tom", b"bad")
        )
        outcomes = await asyncio.gather(cats.deliver("cats", good), cats.deliver("cats", bad))
        assert list(outcomes) == ["ack", "dead_letter"]
        with pytest.raises(UsageError, match="does not subscribe to topic 'cows'"):
            await cats.deliver("cows", "Bessie")


async def test_faults_apply_to_a_real_broker() -> None:
    """A publish that fails once is sent again, and a duplicate is handled twice."""
    faults = pubsubtest.Faults()
    async with pubsubtest.serve(Cats, broker=URL, faults=faults) as cats:
        faults.fail_next("send")
        async with cats.http.post("/cats", json={"name": "Tom"}) as response:
            assert response.status in (200, 204)
        faults.duplicate_next()
        assert await cats.deliver("cats", Cat(name="Tim")) == "ack"
        await until(lambda: len(cats.service.seen) == 3)
        await cats.idle()
        assert len(cats.published("cats")) == 1


async def test_a_broker_in_memory_may_be_named() -> None:
    """The same test runs on every broker."""
    async with pubsubtest.serve(Cats, broker="memory://") as cats:
        assert await cats.deliver("cats", Cat(name="bad")) == "dead_letter"
        assert await cats.deliver("cats", Cat(name="mother")) == "ack"
        await cats.idle()
        assert cats.service.kittens == 6
        assert len(cats.published("cats.dead")) == 1


# Topics.


async def test_declared_topics_are_made_before_the_start(logs: Logs) -> None:
    """With their subscriptions; others when they are first published to."""
    async with pubsubtest.serve(Cats, broker=URL) as cats:
        assert logs.names == ["cats", "cats.dead", "kittens"]
        (kittens,) = [topic for topic in logs.made if topic.startswith("kittens")]
        mark = kittens.rpartition("-")[2]
        assert logs.made[kittens] == (f"cats-{mark}", f"count-{mark}")
        for _ in range(2):
            async with cats.http.post("/news", json={"name": "Tom"}) as response:
                assert response.status in (200, 204)
        assert logs.names == ["cats", "cats.dead", "kittens", "news"]
        assert logs.removed == []
        assert len(cats.published("news")) == 2
    logs.check_clean()


async def test_runs_do_not_share_topics_and_subscriptions(logs: Logs) -> None:
    """Two at a time see only their own messages."""
    async with pubsubtest.serve(Cats, broker=URL) as one, pubsubtest.serve(Cats, broker=URL) as two:
        assert await one.deliver("cats", Cat(name="A")) == "ack"
        assert await two.deliver("cats", Cat(name="B")) == "ack"
        assert (len(one.service.seen), len(two.service.seen)) == (1, 1)
    assert len(logs.made) == 6
    assert len(logs.broker._groups) == 6
    logs.check_clean()


async def test_topics_are_removed_after_a_test_that_fails(logs: Logs) -> None:
    """Its error is raised, not that of a removal."""
    logs.removal_error = PubSubError("no permission", transient=False)
    with pytest.raises(ValueError, match="a test"):
        async with pubsubtest.serve(Cats, broker=URL):
            raise ValueError("a test")
    logs.check_clean()


async def test_a_removal_that_fails_is_an_error(logs: Logs) -> None:
    """If the test has none."""
    logs.removal_error = PubSubError("no permission", transient=False)
    with pytest.raises(PubSubError, match="no permission"):
        async with pubsubtest.serve(Cats, broker=URL):
            pass
    logs.check_clean()


async def test_topics_are_removed_after_a_start_that_fails(logs: Logs) -> None:
    """The start's error is raised."""
    (topic, error) = ("kittens", PubSubError("no permission", transient=False))
    logs.errors[topic] = error
    with pytest.raises(PubSubError, match="no permission"):
        async with pubsubtest.serve(Cats, broker=URL):
            pytest.fail("it has started")
    logs.check_clean()

    class Broken(Cats):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            raise ConnectionError("no database")
            yield

    logs.errors.clear()
    with pytest.raises(ConnectionError, match="no database"):
        async with pubsubtest.serve(Broken, broker=URL):
            pytest.fail("it has started")
    logs.check_clean()


async def test_topics_are_removed_after_a_test_that_is_cancelled(logs: Logs) -> None:
    """As one that takes too long is; also if the removal is cancelled."""
    inside = asyncio.Event()

    async def test() -> None:
        async with pubsubtest.serve(Cats, broker=URL):
            inside.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(test())
    await inside.wait()
    logs.may_remove.clear()
    running.cancel()
    await until(lambda: len(logs.removing) == 3)
    running.cancel()
    await turns()
    assert not running.done()
    logs.may_remove.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    logs.check_clean()


async def test_a_topic_that_cannot_be_made_is_tried_again(logs: Logs) -> None:
    """At the next publish."""
    logs.errors["news"] = PubSubError("no permission", transient=False)
    async with pubsubtest.serve(Cats, broker=URL) as cats:
        async with cats.http.post("/news", json={"name": "Tom"}) as response:
            assert response.status >= 500
        logs.errors.clear()
        async with cats.http.post("/news", json={"name": "Tom"}) as response:
            assert response.status in (200, 204)
    logs.check_clean()


# What is refused.


@pytest.mark.parametrize(
    "settings",
    [
        Settings(pubsub_url="kafka://b1"),
        Settings(pubsub_url="logs://host"),
        Settings(kafka=KafkaSettings(broker_hosts="b1")),
    ],
    ids=["kafka", "a third party's", "section"],
)
async def test_a_broker_in_the_settings_is_refused(settings: Settings) -> None:
    """It would not be used: the error says how to."""
    for service in (Cats, Cats(settings)):
        given: Any = {"settings": settings} if service is Cats else {}
        with pytest.raises(UsageError, match=r"in memory; .*broker=URL"):
            async with pubsubtest.serve(service, **given):
                pytest.fail("it has started")


async def test_a_channel_on_another_broker_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It is in memory; a URL that its driver would refuse is refused."""
    settings = Settings(topics={"KITTENS": "kafka://cat:secret@b1/kits?security_protocol=sasl_ssl"})
    with caplog.at_level(logging.WARNING, "pubsubtest"):
        async with pubsubtest.serve(Cats, settings=settings) as cats:
            assert await cats.deliver("kits", 1) == "ack"
    assert "KITTENS is in memory, not at kafka://b1" in caplog.text
    assert "secret" not in caplog.text

    wrong = Settings(topics={"KITTENS": "kafka://b1/kits?acks=maybe"})
    with pytest.raises(StartError, match="is not a parameter of kafka://"):
        async with pubsubtest.serve(Cats, settings=wrong):
            pytest.fail("it has started")


@pytest.mark.parametrize(
    ("broker", "arguments", "message"),
    [
        ("logs://host/cats", {}, "names a topic"),
        ("kafka://b1?group=cats", {}, "has group="),
        ("kafka://b1?group_instance_id=me", {}, "has group_instance_id="),
        (URL, {"clock": pubsubtest.Clock()}, "clock= is for brokers in memory"),
        (URL, {"settings": Settings(pubsub_url=URL)}, "leave pubsub_url"),
        (URL, {"settings": Settings(topics={"CATS": URL})}, "leave pubsub_url"),
        (URL, {"settings": Settings(subscriptions={"CATS": URL})}, "leave pubsub_url"),
        ("kafka://b1", {"settings": Settings(kafka=KafkaSettings(group="x"))}, "has group="),
        ("kafka://b1", {"settings": Settings(kafka=KafkaSettings(topic="x"))}, "names a topic"),
    ],
)
async def test_what_is_not_of_this_run_is_refused(
    broker: str, arguments: dict[str, Any], message: str, logs: Logs
) -> None:
    """Nothing is made then."""
    with pytest.raises(UsageError, match=message):
        async with pubsubtest.serve(Cats, broker=broker, **arguments):
            pytest.fail("it has started")
    assert logs.made == {}
