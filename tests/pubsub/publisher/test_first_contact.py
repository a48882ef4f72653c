"""The first contact of a channel with its broker behaves as any later one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from gizmopy.errors import PubSubError, Reject, StartError, TopicNotFound, UnknownScheme, UsageError
from gizmopy.observe.context import deadline
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Capabilities, Channels, Message, collect_subscriptions, subscribe
from gizmopy.pubsub.brokers.memory import MemoryDriver
from tests.pubsub.publisher.support import failures
from tests.pubsub.support import capabilities, no_wait, turns, until

UNREACHABLE = PubSubError("no broker answers", transient=True)


class Far:
    """A broker that a test makes unreachable, or hang."""

    def __init__(self, error: Exception | None = UNREACHABLE, **can: Any) -> None:
        self.error = error
        self.connects = 0
        self.sent: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.capabilities: Capabilities = capabilities(**can)

    def sender(self, topic: str) -> Far:
        return self

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        raise NotImplementedError

    async def connect(self) -> None:
        self.connects += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def send(self, batch: Sequence[Message]) -> list[None]:
        self.sent += [(message.body or b"").decode() for message in batch]
        return [None] * len(batch)

    async def aclose(self) -> None:
        pass


def channels(far: Far, metrics: Metrics | None = None, **options: Any) -> Channels:
    """Return channels on ``far``, except those on memory://."""
    return Channels(
        "far://host",
        service="svc",
        metrics=metrics or Metrics(),
        sleep=no_wait,
        open_driver=lambda url: MemoryDriver() if url.startswith("memory") else far,
        **options,
    )


class Cat(BaseModel):
    name: str


class SecretCat(Cat):
    password: str


async def test_the_first_publish_retries_until_the_broker_is_reached() -> None:
    """A publish that begins in an outage succeeds after it."""
    far = Far()
    async with channels(far) as out:
        publishing = asyncio.create_task(out.publish("cats", "Tom"))
        await until(lambda: far.connects > 3)
        far.error = None
        await publishing
    assert far.sent == ["Tom"]


async def test_a_first_publish_ends_with_the_delivery_timeout_and_is_counted() -> None:
    """Its error is transient, names the reason, and is in the metrics and the health."""
    far, metrics = Far(delivery_timeout=0.05), Metrics()
    async with channels(far, metrics) as out:
        with pytest.raises(PubSubError, match=r"nothing was sent.*no broker answers") as caught:
            await out.publish("cats", "Tom")
        assert caught.value.transient
        assert failures(metrics) == {"transient": 1}
        assert out.unpublished() == ["cats: no broker answers"]
        far.error = None
        await until(lambda: not out.unpublished())


async def test_a_first_publish_ends_before_the_deadline_of_its_caller() -> None:
    """The caller has time to answer, instead of being cancelled at its deadline."""
    far = Far()
    async with channels(far) as out:
        token = deadline.set(time.monotonic() + 2)
        try:
            async with asyncio.timeout(2):
                with pytest.raises(PubSubError, match=r"nothing was sent"):
                    await out.publish("cats", "Tom")
        finally:
            deadline.reset(token)


async def test_many_first_messages_have_a_result_each() -> None:
    """An unreachable broker is the result of every item, as it is later."""
    far, metrics = Far(delivery_timeout=0.05), Metrics()
    async with channels(far, metrics) as out:
        results = await out.publish_many("cats", ["Tom", "Kitty"])
    assert [type(result) for result in results] == [PubSubError, PubSubError]
    assert failures(metrics) == {"transient": 2}


async def test_a_value_that_cannot_be_sent_is_refused_before_the_broker_is_reached() -> None:
    """It is refused at once, as it is later."""
    async with channels(Far()) as out:
        with pytest.raises(UsageError, match="not text"):
            await out.publish("cats", "Tom", key=1)  # type: ignore[arg-type]  # on purpose


async def test_an_unknown_scheme_is_counted_and_unhealthy() -> None:
    """A channel without a driver is shown until it has one."""
    metrics = Metrics()
    async with Channels("nats://host", service="svc", metrics=metrics) as out:
        with pytest.raises(UnknownScheme):
            await out.publish("cats", b"x")
        assert failures(metrics) == {"permanent": 1}
        assert "no driver is registered" in out.unpublished()[0]


async def test_a_broker_that_hangs_does_not_delay_the_first_publish_to_another_one() -> None:
    """Channels connect independently of each other."""
    far = Far(error=None)
    far.gate.clear()
    async with channels(far, topics={"NEAR": "memory://host/near"}) as out:
        hanging = asyncio.create_task(out.publish("cats", "Tom"))
        await turns()
        async with asyncio.timeout(5):
            await out.publish("near", "Kitty")
        far.gate.set()
        await hanging


async def test_a_cancelled_first_publish_does_not_fail_the_others() -> None:
    """The attempt to connect is shared, and outlives a caller."""
    far = Far(error=None)
    far.gate.clear()
    async with channels(far) as out:
        one, other = (asyncio.create_task(out.publish("cats", name)) for name in ("a", "b"))
        await turns()
        one.cancel()
        await turns()
        far.gate.set()
        await other
    assert far.connects == 1
    assert far.sent == ["b"]


async def test_the_first_messages_of_a_key_keep_the_order_of_their_calls() -> None:
    """A call that finds the connection does not overtake those that waited for it."""
    far = Far(error=None)
    calls: list[asyncio.Task[None]] = []

    async def connect() -> None:
        for number in range(5):
            calls.append(asyncio.create_task(out.publish("cats", str(number), key="a")))
            await asyncio.sleep(0)

    far.connect = connect  # type: ignore[method-assign]  # calls arrive while it connects
    async with channels(far) as out:
        await out.publish("cats", "first", key="a")
        calls += [asyncio.create_task(out.publish("cats", str(n), key="a")) for n in range(5, 9)]
        await asyncio.gather(*calls)
    assert far.sent == ["first", *"012345678"]


async def test_a_connection_that_hangs_is_a_problem() -> None:
    """The health shows a broker that does not answer, before any call has failed."""
    far = Far(error=None)
    far.gate.clear()
    async with channels(far, publish_stall=0.02) as out:
        hanging = asyncio.create_task(out.publish("cats", "Tom"))
        await until(lambda: out.unpublished() != [])
        assert "has not answered" in out.unpublished()[0]
        far.gate.set()
        await hanging
        assert out.unpublished() == []


# The start.


async def test_a_declared_channel_is_connected_at_the_start() -> None:
    """The first publish finds a connection."""
    far = Far(error=None)
    async with channels(far, publishes={"cats": None}) as out:
        await out.start([])
        assert far.connects == 1
        assert out.unreachable_brokers() == []


async def test_a_start_during_an_outage_waits() -> None:
    """The daemon starts, is not ready, and connects when the broker is back."""
    far = Far()
    async with channels(far, publishes={"cats": None}) as out:
        await out.start([])
        assert out.unreachable_brokers() == ["cats: no broker answers"]
        far.error = None
        await until(lambda: not out.unreachable_brokers())
        await out.publish("cats", "Tom")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(TopicNotFound("no topic"), "create it"), (PubSubError("no grant", transient=False), "grant")],
)
async def test_a_declared_channel_that_can_never_work_ends_the_start(
    error: PubSubError, remedy: str
) -> None:
    """The error names the channel and the remedy."""
    async with channels(Far(error), publishes={"cats": None}) as out:
        with pytest.raises(StartError, match=f"cannot publish to channel 'cats'.*{remedy}"):
            await out.start([])


async def test_an_unknown_scheme_of_a_declared_channel_ends_the_start() -> None:
    """The daemon is never ready without a driver."""
    async with Channels(
        "nats://host", service="svc", metrics=Metrics(), publishes={"cats": None}
    ) as out:
        with pytest.raises(StartError, match=r"channel 'cats'.*memory://"):
            await out.start([])


class Rejecting:
    @subscribe("near", dead_letter="dead")
    async def on_near(self, message: Message) -> None:
        raise Reject("no")


async def test_a_start_waits_for_the_broker_of_the_dead_letters() -> None:
    """An unreachable broker does not end the start; the message waits for its dead letter."""
    far = Far()
    async with channels(far, topics={"NEAR": "memory://host/near"}) as out:
        await out.start(collect_subscriptions(Rejecting(), "svc"))
        assert out.unreachable_brokers() == ["dead: no broker answers"]
        await out.publish("near", "Tom")
        await turns()
        far.error = None
        await out.idle()
    assert far.sent == ["Tom"]


# Declared channels.


async def test_values_of_a_declared_type_are_validated_and_filtered() -> None:
    """A wrong value is refused, and a field of a subclass does not leak."""
    far, metrics = Far(error=None), Metrics()
    async with channels(far, metrics, publishes={"cats": Cat}) as out:
        await out.publish("cats", SecretCat(name="Tom", password="secret"))
        await out.publish("cats", {"name": "Kitty"})
        for wrong in ({"nom": "Tom"}, b"Tom", "Tom", 1):
            with pytest.raises(UsageError, match="cannot be published as Cat"):
                await out.publish("cats", wrong)
        with pytest.raises(UsageError, match=r"declare Cat \| None"):
            await out.publish("cats", None)
    assert far.sent == ['{"name":"Tom"}', '{"name":"Kitty"}']
    assert failures(metrics) == {"encode": 5}


async def test_a_tombstone_is_published_if_the_type_takes_none() -> None:
    """``Cat | None`` declares tombstones."""
    far = Far(error=None)
    async with channels(far, publishes={"cats": Cat | None}) as out:
        await out.publish("cats", None, key="tom")
    assert far.sent == [""]


async def test_a_channel_that_is_not_declared_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It works all the same."""
    caplog.set_level(logging.WARNING)
    far = Far(error=None)
    async with channels(far, publishes={"cats": None}) as out:
        await out.publish("dogs", "Rex")
        await out.publish("dogs", "Rex")
    assert far.sent == ["Rex", "Rex"]
    assert caplog.text.count("svc publishes to 'dogs'") == 1
