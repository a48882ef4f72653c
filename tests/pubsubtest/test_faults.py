"""Faults: each has its effect, and only drop_next loses a confirmed message."""

import asyncio
from collections.abc import Collection, Hashable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import pytest

from gizmopy import subscribe
from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import (
    Driver,
    Message,
    Publisher,
    Receiver,
    Sender,
    Subscriber,
    Subscription,
    collect_subscriptions,
)
from gizmopy.pubsub.brokers.memory import MemoryDriver
from pubsubtest import Clock, Faults, FaultyDriver, Rates
from tests.pubsub.log_broker import LogBroker
from tests.pubsub.support import turns, until


async def _revoke(partitions: Collection[Hashable], seconds: float) -> None: ...


class Bench:
    """A topic on a broker with faults, with its sender and a receiver."""

    def __init__(self, faults: Faults, driver: Driver, sender: Sender, receiver: Receiver) -> None:
        self.faults = faults
        self.driver = driver
        self.sender = sender
        self.receiver = receiver

    @classmethod
    async def open(
        cls, faults: Faults | None = None, *, inner: Driver | None = None, ordered: bool = False
    ) -> "Bench":
        faults = faults or Faults()
        driver = FaultyDriver(inner or MemoryDriver(), faults)
        receiver = driver.receiver("t", "s", ordered=ordered)
        await receiver.connect(_revoke)
        sender = driver.sender("t")
        await sender.connect()
        return cls(faults, driver, sender, receiver)

    async def send(self, *ids: str) -> list[str]:
        """Send messages, and return ``"ok"`` or the error for each."""
        return outcomes_of(await self.sender.send([message(id_) for id_ in ids]))

    async def receive(self) -> list[Message]:
        return list(await self.receiver.receive(100, 0))


def message(id_: str) -> Message:
    """Return a message; its key is the text before the first digit."""
    return Message("t", id_.encode(), id=id_, key=id_.rstrip("0123456789") or None)


def ids(batch: Sequence[Message]) -> list[str]:
    """Return the ids of messages."""
    return [each.id for each in batch]


def outcomes_of(results: Sequence[Exception | None]) -> list[str]:
    """Return a text for each result: ok, transient or refused."""
    return ["ok" if e is None else _kind(e) for e in results]


def _kind(error: Exception) -> str:
    return "again" if isinstance(error, PubSubError) and error.transient else "refused"


async def test_without_faults_nothing_is_changed() -> None:
    """Without faults the driver works like the inner one."""
    bench = await Bench.open()
    assert await bench.send("1", "2") == ["ok", "ok"]
    batch = await bench.receive()
    assert ids(batch) == ["1", "2"]
    assert outcomes_of(await bench.receiver.nack(batch[:1], 0)) == ["ok"]
    assert outcomes_of(await bench.receiver.extend(batch, 30)) == ["refused", "ok"]
    assert outcomes_of(await bench.receiver.ack(batch[1:])) == ["ok"]
    assert outcomes_of(await bench.receiver.ack(batch[1:])) == ["refused"]
    assert [(m.id, m.delivery) for m in await bench.receive()] == [("1", 2)]
    assert bench.receiver.status().backlog == 0
    await bench.receiver.aclose()
    with pytest.raises(UsageError, match="closed"):
        await bench.receive()
    await bench.sender.aclose()
    with pytest.raises(UsageError, match="closed"):
        await bench.send("3")


# Sends: failed, unconfirmed, duplicated, dropped.


async def test_a_send_that_fails_has_not_arrived() -> None:
    """The planned number of messages fails, and others are sent."""
    bench = await Bench.open()
    bench.faults.fail_next("send", times=2, when=lambda m: m.id != "1")
    assert await bench.send("1", "2", "3", "4") == ["ok", "again", "again", "ok"]
    assert ids(await bench.receive()) == ["1", "4"]


async def test_a_failed_send_may_have_arrived() -> None:
    """With ``done`` the message arrives, although its sender gets an error."""
    bench = await Bench.open()
    bench.faults.fail_next("send", done=True)
    assert await bench.send("1") == ["again"]
    assert ids(await bench.receive()) == ["1"]


@pytest.mark.parametrize("done", [True, False])
async def test_a_failed_send_holds_back_its_key(done: bool) -> None:
    """The later messages of its key in the batch fail too, to keep order; others do not."""
    bench = await Bench.open()
    bench.faults.fail_next("send", when=lambda m: m.id == "a1", done=done)
    assert await bench.send("a1", "b1", "a2", "1") == ["again", "ok", "again", "ok"]
    assert ids(await bench.receive()) == [*["a1"] * done, "b1", "1"]


async def test_the_error_of_a_fault_is_the_result() -> None:
    """A given error is the result of the message."""
    bench = await Bench.open()
    error = PubSubError("too large", transient=False)
    bench.faults.fail_next("send", error)
    assert await bench.sender.send([message("1")]) == [error]


async def test_a_message_may_arrive_twice() -> None:
    """A duplicate has the same id, and is settled separately."""
    bench = await Bench.open()
    bench.faults.duplicate_next()
    assert await bench.send("1", "2") == ["ok", "ok"]
    batch = await bench.receive()
    assert ids(batch) == ["1", "2", "1"]
    assert outcomes_of(await bench.receiver.ack(batch)) == ["ok", "ok", "ok"]


async def test_only_drop_next_loses_a_confirmed_message() -> None:
    """Only drop_next loses a confirmed message."""
    bench = await Bench.open()
    bench.faults.drop_next(when=lambda m: m.id == "2")
    assert await bench.send("1", "2", "3") == ["ok", "ok", "ok"]
    assert ids(await bench.receive()) == ["1", "3"]


# Settling: failed, unconfirmed, too late.


async def test_a_settling_fails_item_by_item() -> None:
    """A failed message can be settled again; the others are settled."""
    bench = await Bench.open()
    await bench.send("1", "2", "3")
    batch = await bench.receive()
    for call in ("ack", "nack", "extend"):
        bench.faults.fail_next(call, when=lambda m: m.id == "2")
    assert outcomes_of(await bench.receiver.extend(batch, 30)) == ["ok", "again", "ok"]
    assert outcomes_of(await bench.receiver.ack(batch)) == ["ok", "again", "ok"]
    assert outcomes_of(await bench.receiver.nack(batch[1:2], 0)) == ["again"]
    assert outcomes_of(await bench.receiver.nack(batch[1:2], 0)) == ["ok"]
    assert ids(await bench.receive()) == ["2"]


async def test_a_failed_settle_may_have_taken_effect() -> None:
    """A retry is refused, because the message is settled."""
    bench = await Bench.open()
    await bench.send("1")
    batch = await bench.receive()
    bench.faults.fail_next("ack", done=True)
    assert outcomes_of(await bench.receiver.ack(batch)) == ["again"]
    assert outcomes_of(await bench.receiver.ack(batch)) == ["refused"]
    assert await bench.receive() == []


@pytest.mark.parametrize("call", ["ack", "extend"])
async def test_a_lost_lease_is_found_when_it_is_used(call: str) -> None:
    """The call is refused, and the message is delivered again."""
    bench = await Bench.open()
    await bench.send("1", "2")
    batch = await bench.receive()
    bench.faults.lose_next(when=lambda m: m.id == "2")
    if call == "ack":
        assert outcomes_of(await bench.receiver.ack(batch)) == ["ok", "refused"]
    else:
        assert outcomes_of(await bench.receiver.extend(batch, 30)) == ["ok", "refused"]
    assert [(m.id, m.delivery) for m in await bench.receive()] == [("2", 2)]


async def test_a_lease_cannot_be_lost_without_nack() -> None:
    """A broker without nack raises UsageError."""
    bench = await Bench.open(inner=LogBroker())
    await bench.send("a1")
    batch = await bench.receiver.receive(10, 1)
    bench.faults.lose_next()
    with pytest.raises(UsageError, match="cannot nack"):
        await bench.receiver.ack(batch)
    await bench.receiver.aclose()


# Connections.


async def test_a_connect_and_a_receive_fail_as_a_whole() -> None:
    """They raise the planned error, once."""
    faults = Faults()
    driver = FaultyDriver(MemoryDriver(), faults)
    receiver = driver.receiver("t", "s", ordered=False)
    faults.fail_next("connect", times=2)
    for connect in (driver.sender("t").connect(), receiver.connect(_revoke)):
        with pytest.raises(PubSubError, match="connect: it failed"):
            await connect
    await receiver.connect(_revoke)
    faults.fail_next("receive", PubSubError("no permission", transient=False))
    with pytest.raises(PubSubError, match="no permission"):
        await receiver.receive(1, 0)
    assert await receiver.receive(1, 0) == []


async def test_an_outage_fails_every_call() -> None:
    """Each call raises a transient error, and nothing is sent; afterwards all calls work."""
    bench = await Bench.open()
    other = bench.driver.receiver("t", "other", ordered=False)
    async with bench.faults.outage():
        for call in (
            bench.sender.send([message("1")]),
            bench.sender.connect(),
            other.connect(_revoke),
            bench.receiver.receive(1, 0),
            bench.receiver.ack([message("2")]),
            bench.receiver.nack([message("2")], 0),
            bench.receiver.extend([message("2")], 30),
        ):
            with pytest.raises(PubSubError, match="the broker is unreachable") as caught:
                await call
            assert caught.value.transient
    await other.connect(_revoke)
    assert await bench.send("3") == ["ok"]
    assert ids(await bench.receive()) == ids(await other.receive(10, 0)) == ["3"]


async def test_an_outage_breaks_connections() -> None:
    """A pending receive raises; held messages are delivered again, and the old ack is refused."""
    bench = await Bench.open(ordered=True)
    await bench.send("a1", "a2")
    held = await bench.receive()
    pending = asyncio.create_task(bench.receiver.receive(10, 1000))
    await turns()
    async with bench.faults.outage():
        with pytest.raises(PubSubError, match="the connection is broken"):
            await pending
    assert outcomes_of(await bench.receiver.ack(held)) == ["refused", "refused"]
    again = await bench.receive()
    assert [(m.id, m.delivery) for m in again] == [("a1", 2), ("a2", 2)]
    assert outcomes_of(await bench.receiver.ack(again)) == ["ok", "ok"]


async def test_an_outage_of_a_broker_with_positions_keeps_them() -> None:
    """Messages received during the outage are returned after it, once, within the limit."""
    bench = await Bench.open(inner=LogBroker())
    pending = asyncio.create_task(bench.receiver.receive(10, 5))
    await turns()
    inner = bench.driver._inner.sender("t")  # type: ignore[attr-defined]  # others publish on
    async with bench.faults.outage():
        await inner.send([message("a1"), message("a2")])
        with pytest.raises(PubSubError, match="the broker is unreachable"):
            await pending
    assert ids(await bench.receiver.receive(1, 5)) == ["a1"]
    batch = await bench.receiver.receive(1, 5)
    assert ids(batch) == ["a2"]
    assert outcomes_of(await bench.receiver.ack(batch)) == ["ok"]
    await bench.receiver.aclose()


async def test_a_call_hangs_until_it_may_go_on() -> None:
    """A hanging receive neither begins nor returns, and loses no message."""
    bench = await Bench.open()
    pending = asyncio.create_task(bench.receiver.receive(10, 1000))
    await turns()
    async with bench.faults.hanging("receive"):
        await bench.send("1")
        await turns()
        assert not pending.done()
    assert ids(await pending) == ["1"]
    async with bench.faults.hanging("ack"):
        acking = asyncio.create_task(bench.receiver.ack(pending.result()))
        await turns()
        assert not acking.done()
    assert outcomes_of(await acking) == ["ok"]


async def test_closing_ends_a_receive_that_is_late() -> None:
    """A delayed receive returns nothing if its receiver is closed before it begins."""
    clock = Clock()
    bench = await Bench.open(Faults(rates=Rates(delay=1), clock=clock))
    pending = asyncio.create_task(bench.receiver.receive(10, 0))
    await turns()
    await bench.receiver.aclose()
    await clock.advance(1)
    assert pending.result() == []


async def test_closing_ends_a_receive_that_hangs() -> None:
    """It returns nothing; its messages go to other receivers."""
    bench = await Bench.open()
    other = bench.driver.receiver("t", "s", ordered=False)
    await other.connect(_revoke)
    pending = asyncio.create_task(bench.receiver.receive(10, 1000))
    await turns()
    async with bench.faults.hanging("receive"):
        await bench.send("1")
        await turns()
        await bench.receiver.aclose()
        await bench.receiver.aclose()
        assert await pending == []
    assert ids(await other.receive(10, 0)) == ["1"]


# Random faults.


async def _story(seed: int) -> list[list[str]]:
    """Return the results of a hundred messages, and the messages that arrive."""
    rates = Rates(fail=0.2, unconfirmed=0.1, duplicate=0.1, lose=0.1)
    bench = await Bench.open(Faults(seed, rates))
    story = []
    for number in range(100):
        story.append(await bench.send(str(number)))
        try:
            batch = await bench.receive()
        except PubSubError as error:
            story.append([str(error)])
        else:
            story.append([*ids(batch), *outcomes_of(await bench.receiver.ack(batch))])
    return story


async def test_a_seed_gives_the_same_faults() -> None:
    """The same seed gives the same faults; another seed gives others."""
    assert await _story(1) == await _story(1) != await _story(2)


async def test_random_faults_end() -> None:
    """A random outage is bounded by the clock; stop ends all faults."""
    clock = Clock()
    bench = await Bench.open(inner=MemoryDriver(clock=clock))
    faults = Faults(3, Rates(outage=1, fail=1), longest_outage=10, clock=clock)
    sender = FaultyDriver(MemoryDriver(), faults).sender("t")
    with pytest.raises(PubSubError, match="the broker is unreachable"):
        await sender.send([message("1")])
    assert faults.is_out
    await clock.advance(10)
    assert not faults.is_out
    with pytest.raises(PubSubError, match="the broker is unreachable"):
        await sender.send([message("1")])
    faults.fail_next("send")
    faults.stop()
    assert outcomes_of(await sender.send([message("1")])) == ["ok"]
    await bench.receiver.aclose()


async def test_a_call_is_late_by_the_clock() -> None:
    """A random delay ends when the clock has moved that far."""
    clock = Clock()
    faults = Faults(rates=Rates(delay=1), longest_delay=10, clock=clock)
    sending = asyncio.create_task(FaultyDriver(MemoryDriver(), faults).sender("t").send([]))
    await turns()
    assert not sending.done()
    await clock.advance(10)
    assert sending.done()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_invalid_rate_is_rejected(rate: float) -> None:
    """The error names the rate and its range."""
    with pytest.raises(UsageError, match=r"Rates\(lose=.*use a rate from 0 to 1"):
        Rates(lose=rate)


@pytest.mark.parametrize("times", [0, -1])
def test_an_invalid_number_of_times_is_rejected(times: int) -> None:
    """A number of times below 1 raises UsageError."""
    faults = Faults()
    for say in (
        partial(faults.fail_next, "send"),
        faults.duplicate_next,
        faults.lose_next,
        faults.drop_next,
    ):
        with pytest.raises(UsageError, match=rf"times={times} .*use 1 or more"):
            say(times=times)


class Handlers:
    """Take note of what arrives."""

    def __init__(self) -> None:
        self.free: set[bytes] = set()
        self.keys: set[bytes] = set()

    @subscribe("t", subscription="free", concurrency=5)
    async def on_free(self, body: bytes) -> None:
        await asyncio.sleep(0)
        self.free.add(body)

    @subscribe("t", subscription="keys", concurrency=5, order="key")
    async def on_key(self, body: bytes) -> None:
        await asyncio.sleep(0)
        self.keys.add(body)


ROUGH = Rates(fail=0.05, unconfirmed=0.05, duplicate=0.05, lose=0.05, delay=0.05, outage=0.02)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("has_positions", [False, True])
async def test_no_fault_loses_a_confirmed_message(has_positions: bool, seed: int) -> None:
    """With every fault, the engine handles all confirmed messages at least once."""
    rates = replace(ROUGH, lose=0.0) if has_positions else ROUGH
    faults = Faults(seed, rates, longest_delay=0.001, longest_outage=0.01)
    # Small batches: a fault fails a whole one, and few messages would be left to be handled.
    inner = LogBroker() if has_positions else MemoryDriver(lease=0.5, batch_messages=20)
    driver = FaultyDriver(inner, faults)
    handlers = Handlers()
    publisher = await _publisher(driver)  # before the faults begin
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for subscription in collect_subscriptions(handlers, "s"):
            subscriber = _subscriber(driver, subscription)
            await stack.enter_async_context(subscriber)
            group.create_task(subscriber.run())
        sent = [b"%d" % number for number in range(500)]
        results = await publisher.publish_many(sent, key=lambda body: str(int(body) % 7))
        confirmed = {body for body, error in zip(sent, results, strict=True) if error is None}
        assert len(confirmed) > 100
        await until(lambda: confirmed <= handlers.free and confirmed <= handlers.keys)
    await publisher.aclose()
    await inner.aclose()


def _subscriber(driver: Driver, subscription: Subscription) -> Subscriber:
    return Subscriber(
        driver.receiver("t", subscription.subscription, ordered=subscription.order != "none"),
        subscription,
        topic="t",
        capabilities=replace(driver.capabilities, process_local=False),
        metrics=Metrics(),
        sleep=_briefly,
    )


async def _publisher(driver: Driver) -> Publisher:
    """Return a publisher of small batches."""
    limits = replace(driver.capabilities, batch_messages=7)
    publisher = Publisher(driver.sender("t"), "t", metrics=Metrics(), limits=limits, sleep=_briefly)
    await publisher.connect()
    return publisher


async def _briefly(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.001))
