"""serve: the real daemon in the test's process."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel, Field

import pubsubtest
from gizmopy import Message, Reject, Retry, Service, Settings, get, post, subscribe
from gizmopy.errors import PubSubError, UsageError
from pubsubtest import Clock, Faults


class Cat(BaseModel):
    name: Annotated[str, Field(min_length=1)]


class Cats(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.seen: list[tuple[str, int]] = []

    @post("/cats")
    async def post_cat(self, cat: Cat) -> Cat:
        await self.publish("cats", cat, key=cat.name, attributes={"colour": "black"})
        return cat

    @subscribe("cats", dead_letter="dead-cats")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        self.seen.append((cat.name, message.attempt))
        match cat.name:
            case "rejected":
                raise Reject("no such cat")
            case "broken":
                raise RuntimeError("broken cat")
            case "shy" if message.delivery == 1:
                raise Retry(after=3600)

    @subscribe("dogs")
    async def on_dog(self, name: str) -> None:
        if name == "bad":
            raise RuntimeError("bad dog")

    @subscribe("birds")
    async def on_bird(self, bird: StringValue | None) -> None:
        self.seen.append((bird.value if bird else "tombstone", 0))

    @subscribe("fish", order="key")
    async def on_fish(self, name: str) -> None:
        raise RuntimeError("always")

    @subscribe("mice")
    async def first_mouse(self, name: str) -> None: ...

    @subscribe("mice", subscription="second", dead_letter="dead-mice")
    async def second_mouse(self, name: str) -> None:
        raise Reject("no mice")


async def test_published_messages_are_recorded() -> None:
    """published() has body, key and attributes; the service's own subscriber handles it too."""
    async with pubsubtest.serve(Cats) as cats:
        async with cats.http.post("/cats", json={"name": "Tom"}) as response:
            assert response.status == 200
        await cats.idle()
        (message,) = cats.published("cats")

    assert message.value(Cat) == Cat(name="Tom")
    assert message.key == "Tom"
    assert message.attributes == {
        "colour": "black",
        "content-type": "application/json",
        "request-id": response.headers["X-Request-ID"],
    }
    assert cats.service.seen == [("Tom", 1)]
    assert cats.published("dogs") == []


async def test_deliver_returns_the_outcome() -> None:
    """deliver() returns the outcome of the message, which published() does not list."""
    async with pubsubtest.serve(Cats) as cats:
        assert await cats.deliver("cats", Cat(name="Tom")) == "ack"
        assert await cats.deliver("cats", Cat(name="rejected")) == "dead_letter"
        assert await cats.deliver("cats", {"name": ""}) == "dead_letter"
        assert await cats.deliver("cats", b"no json", key="k") == "dead_letter"

    assert cats.published("cats") == []
    reasons = [dead.attributes["gizmo-dl-reason"] for dead in cats.published("dead-cats")]
    assert reasons == ["no such cat", "undecodable", "undecodable"]
    assert cats.published("dead-cats")[2].key == "k"


async def test_retries_do_not_wait() -> None:
    """A retry after an hour happens at once; the handler runs as often as in production."""
    async with pubsubtest.serve(Cats) as cats:
        assert await cats.deliver("cats", Cat(name="shy")) == "nack"
        await cats.idle()
        assert await cats.deliver("cats", Cat(name="broken")) == "nack"
        await cats.idle()

    shy = [("shy", 1), ("shy", 1)]  # the broker waits the hour
    broken = [("broken", attempt) for _ in range(5) for attempt in (1, 2, 3)]
    assert cats.service.seen == shy + broken
    (dead,) = cats.published("dead-cats")
    assert dead.attributes["gizmo-dl-reason"] == "exhausted"


async def test_protobuf_and_tombstones_are_delivered() -> None:
    """A protobuf message arrives decoded, None as a tombstone."""
    async with pubsubtest.serve(Cats) as cats:
        assert await cats.deliver("birds", StringValue(value="Tweety")) == "ack"
        assert await cats.deliver("birds", None) == "ack"

    assert cats.service.seen == [("Tweety", 0), ("tombstone", 0)]


async def test_deliver_waits_for_each_subscription() -> None:
    """With several subscriptions, an outcome other than ack wins, after all have settled."""
    async with pubsubtest.serve(Cats) as cats:
        assert await cats.deliver("mice", "Jerry") == "dead_letter"


async def test_delivering_to_a_topic_without_subscription_raises() -> None:
    """deliver() to a topic without subscription raises instead of waiting."""
    async with pubsubtest.serve(Cats) as cats:
        match = "Cats does not subscribe to topic 'cows', but to: birds, cats, dogs, fish, mice"
        for _ in range(2):
            with pytest.raises(UsageError, match=match):
                await cats.deliver("cows", "Bessie")


async def test_a_message_that_is_never_settled_times_out() -> None:
    """A failure that blocks its key makes deliver() raise TimeoutError."""
    async with pubsubtest.serve(Cats, settings=Settings(shutdown_timeout=0)) as cats:
        with pytest.raises(TimeoutError, match=r"was not settled within 0\.05 s"):
            await cats.deliver("fish", "Wanda", timeout=0.05)


async def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A served daemon reads no environment and no .env, and changes no logging."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SERVICE_NAME=from-a-file\n")
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("GIZMO_PUBSUB_URL", "kafka://nowhere")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    handlers = logging.getLogger().handlers[:]
    async with pubsubtest.serve(Cats) as cats:
        assert cats.server.name == "cats"
        assert not cats.url.endswith(":1")
        assert logging.getLogger().handlers == handlers


async def test_a_service_instance_is_served_unchanged() -> None:
    """A service instance keeps its attributes and settings."""

    class Greeting(Settings):
        greeting: str = "miaow"

    class Own(Service):
        settings: Greeting

        @get("/")
        async def hello(self) -> str:
            return self.settings.greeting

    async with pubsubtest.serve(Own(Greeting(greeting="purr"))) as own:
        async with own.http.get("/") as response:
            assert await response.json() == "purr"


async def test_many_are_served_at_once() -> None:
    """Each served daemon has its own port and broker."""
    async with pubsubtest.serve(Cats) as one, pubsubtest.serve(Cats) as two:
        await asyncio.gather(one.deliver("cats", Cat(name="A")), two.deliver("cats", Cat(name="B")))

    assert one.service.seen == [("A", 1)]
    assert two.service.seen == [("B", 1)]


async def test_a_channel_may_have_another_topic() -> None:
    """Settings name the topic of a channel; each of its brokers is in memory."""
    settings = Settings(
        topics={"DEAD_CATS": "kafka://nowhere/dead"},
        subscriptions={"CATS": "sqs://nowhere/felines", "DOGS": "gcp://nowhere/canines"},
    )
    async with pubsubtest.serve(Cats, settings=settings) as cats:
        assert await cats.deliver("felines", b"no json") == "dead_letter"

    assert len(cats.published("dead")) == 1


# Time, and faults.


async def test_retries_wait_for_the_clock() -> None:
    """A retry ends when the test has moved the clock."""
    clock = Clock()
    async with pubsubtest.serve(Cats, clock=clock) as cats:
        assert await cats.deliver("cats", Cat(name="shy")) == "nack"
        await clock.advance(3599)
        assert cats.service.seen == [("shy", 1)]
        await clock.advance(1)
        await cats.idle()
        assert cats.service.seen == [("shy", 1)] * 2


async def test_no_lease_ends_because_the_clock_is_moved() -> None:
    """A handler that takes an hour of the clock keeps its message."""

    class Slow(Service):
        handled = 0

        @subscribe("work")
        async def on_work(self, name: str) -> None:
            await clock.sleep(3600)
            self.handled += 1

    clock = Clock()
    async with pubsubtest.serve(Slow, clock=clock) as slow:
        delivering = asyncio.create_task(slow.deliver("work", "hard"))
        await clock.advance(3600)
        assert await delivering == "ack"
        await slow.idle()
        assert slow.service.handled == 1


async def test_a_transient_publish_failure_is_retried() -> None:
    """Faults apply between the daemon and its broker; a confirmed message is recorded once."""
    faults = Faults()
    async with pubsubtest.serve(Cats, faults=faults) as cats:
        faults.fail_next("send", times=2)
        async with cats.http.post("/cats", json={"name": "Tom"}) as response:
            assert response.status == 200
        await cats.idle()
        assert len(cats.published("cats")) == 1
        assert cats.service.seen == [("Tom", 1)]


async def test_a_duplicate_is_settled_twice() -> None:
    """The outcome of a duplicated message is the first one."""
    faults = Faults()
    async with pubsubtest.serve(Cats, faults=faults) as cats:
        faults.duplicate_next()
        assert await cats.deliver("cats", Cat(name="Tom")) == "ack"
        await cats.idle()
        assert cats.service.seen == [("Tom", 1)] * 2


async def test_a_lost_lease_is_not_an_outcome() -> None:
    """deliver() waits for the delivery after a lost lease."""
    faults = Faults()
    async with pubsubtest.serve(Cats, faults=faults) as cats:
        faults.lose_next()
        assert await cats.deliver("cats", Cat(name="Tom")) == "ack"
        assert cats.service.seen == [("Tom", 1)] * 2


async def test_a_replaced_subscriber_counts_once() -> None:
    """deliver() waits for each subscription once, even if its subscriber was replaced."""

    class Dogs(Service):
        @subscribe("dogs")
        async def on_dog(self, name: str) -> None: ...

    faults = Faults()
    async with pubsubtest.serve(Dogs, faults=faults) as dogs:
        faults.fail_next("receive", PubSubError("no permission", transient=False), times=3)
        async with faults.outage():
            pass  # the pending receive ends, and the next ones kill their subscribers
        assert await dogs.deliver("dogs", "Rex") == "ack"
        restarts = await (await dogs.http.get("/metrics")).text()
        assert 'gizmo_pubsub_restarts_total{subscription="dogs",topic="dogs"} 3' in restarts


class Strict(Service):
    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.received: list[Message] = []

    @subscribe("strict")
    async def on_message(self, message: Message) -> None:
        self.received.append(message)


async def test_deliver_refuses_what_a_publisher_refuses() -> None:
    """A key and attributes are text, as they are for a broker."""
    async with pubsubtest.serve(Strict) as served:
        wrong: Any
        for wrong in ({"key": 1}, {"attributes": {"n": 1}}):
            with pytest.raises(UsageError, match="not text"):
                await served.deliver("strict", "x", **wrong)


async def test_deliver_takes_a_message() -> None:
    """Body, key, attributes and id are its own; the arguments are added."""
    given = Message("other", b"x", key="k", attributes={"a": "1"}, id="7")
    async with pubsubtest.serve(Strict) as served:
        assert await served.deliver("strict", given, attributes={"b": "2"}) == "ack"
        (message,) = served.service.received
    assert (message.topic, message.body, message.key, message.id) == ("strict", b"x", "k", "7")
    assert message.attributes == {"a": "1", "b": "2"}
