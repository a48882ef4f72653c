"""Prove that no message is lost: python -m tests.endurance.memory.soak [SECONDS] [--seed N].

Numbered messages are published to memory:// and to a broker that keeps positions. Both inject every
fault that they can. Subscribers are drained or killed at random, and started again. At the end
every message whose publish was confirmed was handled or dead-lettered, each key's messages started
in order if order is kept, and the memory has not grown since half time; else the exit code is 1.
Duplicates are counted only, because delivery is at least once. The seed chooses the faults; their
timing depends on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import Enum
from typing import Any

from gizmopy import subscribe
from gizmopy.errors import PubSubError, Reject, Retry
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import (
    Driver,
    Message,
    Publisher,
    Receiver,
    RetryPolicy,
    Sender,
    Status,
    Subscriber,
    Subscription,
    collect_subscriptions,
)
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Results, Revoke
from pubsubtest import Faults, FaultyDriver, Rates
from tests.pubsub.log_broker import LogBroker, LogReceiver

SECONDS = 600.0
LEASE = 2.0
KEYS = 40
PUBLISHERS = 4
BURST = 10
"""Messages that a publisher publishes at once."""
PAUSE = 0.05
"""Seconds between two bursts."""
BURSTS = 100
"""How many bursts a publisher lives for."""
MEMBERS = 2
"""Subscribers of each subscription."""
LIFE = 5.0
"""Seconds that a subscriber lives on average."""
REPORT_EVERY = 10.0
SETTLE_SECONDS = 60.0
"""Seconds for the remaining messages at the end, without faults."""
RATES = Rates(fail=0.01, unconfirmed=0.01, duplicate=0.005, lose=0.02, delay=0.01, outage=0.0003)
GIVE_UP: Any = {
    "dead_letter": "buried",
    "retry": RetryPolicy(attempts=2, base=0.02, cap=0.2),
    "max_deliveries": 3,
}
"""Options of the subscriptions. Retries must end sooner than a subscriber lives, or never do."""
GROWTH = 1.2
"""How much more memory there may be in the end than at half time."""

Id = tuple[int, int]
"""A key's number, and the message's among those of its key."""


class State(Enum):
    """A published message that is not handled yet."""

    SENT = "sent"
    CONFIRMED = "confirmed"
    OPEN = "open"
    """Its publish failed: it may arrive or not."""


class Ledger:
    """The messages that one subscription still has to handle or dead-letter."""

    def __init__(self) -> None:
        self.owed: dict[Id, State] = {}
        self.counts: Counter[str] = Counter()
        self.out_of_order: list[str] = []
        self._newest: dict[int, int] = {}
        self._skipped: dict[int, set[int]] = defaultdict(set)
        self._begun: dict[int, set[int]] = defaultdict(set)
        self._given_up: set[Id] = set()

    def send(self, id_: Id) -> None:
        """Expect a message."""
        self.owed[id_] = State.SENT

    def published(self, id_: Id, state: State) -> None:
        """Note how the publish of a message ended."""
        self.counts[state.value] += 1
        if id_ in self.owed:
            self.owed[id_] = state
        elif state is State.OPEN:
            self.counts["open ones that arrived"] += 1

    def begin(self, id_: Id) -> None:
        """Note that a handling begins: the first of each, after those before it have ended."""
        key, number = id_
        newest, skipped, begun = self._newest.get(key, -1), self._skipped[key], self._begun[key]
        if number > newest:
            self._newest[key] = number
            skipped.update(range(newest + 1, number))
            if begun:
                self.out_of_order.append(f"{id_} while {begun} of its key had not ended")
        elif number in skipped:
            skipped.remove(number)
            if self.owed.get(id_) is not State.OPEN:
                self.out_of_order.append(f"{id_} after {newest}")
        if id_ in self.owed and id_ not in self._given_up:
            begun.add(number)

    def give_up(self, id_: Id) -> None:
        """Note that a message is a dead letter, though it may come again until that is known."""
        if id_ in self.owed:
            self._given_up.add(id_)
        self._begun[id_[0]].discard(id_[1])

    def end(self, id_: Id, outcome: str) -> None:
        """Note that a message is handled or buried."""
        self._given_up.discard(id_)
        self._begun[id_[0]].discard(id_[1])
        state = self.owed.pop(id_, None)
        if state is None:
            self.counts["duplicates"] += 1
            return
        self.counts[outcome] += 1
        if state is State.OPEN:
            self.counts["open ones that arrived"] += 1

    @property
    def lost(self) -> list[Id]:
        """The messages that were confirmed, and did not arrive."""
        return [id_ for id_, state in self.owed.items() if state is State.CONFIRMED]

    @property
    def adds_up(self) -> bool:
        """Whether confirmed = handled + dead-lettered + lost."""
        ended = self.counts["handled"] + self.counts["buried"] + len(self.lost)
        return ended == self.counts["confirmed"] + self.counts["open ones that arrived"]


class Line:
    """A driver whose broker can be disconnected: messages held then are neither acked nor released.

    A group that keeps positions is told, as it has no lease that runs out.
    """

    def __init__(self, broker: Driver) -> None:
        self.capabilities = replace(broker.capabilities, process_local=False)
        self.is_cut = False
        self._broker = broker
        self._receivers: list[Receiver] = []

    def cut(self) -> None:
        """Let nothing through any more."""
        self.is_cut = True
        for receiver in self._receivers:
            if isinstance(self._broker, LogBroker) and isinstance(receiver, LogReceiver):
                self._broker.kill(receiver)

    def check(self) -> None:
        """Raise if the broker is disconnected."""
        if self.is_cut:
            raise PubSubError("this process is dead", transient=False)

    def sender(self, topic: str) -> Sender:
        """Return a sender of the broker."""
        return _LineSender(self, self._broker.sender(topic))

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        """Return a receiver of the broker."""
        receiver = self._broker.receiver(topic, subscription, ordered=ordered)
        self._receivers.append(receiver)
        return _LineReceiver(self, receiver)

    async def aclose(self) -> None:
        """Leave the broker to the others."""


class _LineSender:
    def __init__(self, line: Line, sender: Sender) -> None:
        self._line = line
        self._sender = sender

    async def connect(self) -> None:
        self._line.check()
        await self._sender.connect()

    async def send(self, batch: Sequence[Message]) -> Results:
        self._line.check()
        return await self._sender.send(batch)

    async def aclose(self) -> None:
        await self._sender.aclose()


class _LineReceiver:
    def __init__(self, line: Line, receiver: Receiver) -> None:
        self._line = line
        self._receiver = receiver

    async def connect(self, revoke: Revoke) -> None:
        self._line.check()
        await self._receiver.connect(revoke)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        self._line.check()
        batch = await self._receiver.receive(limit, min(wait, 0.5))  # a disconnect does not wake it
        self._line.check()
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        self._line.check()
        return await self._receiver.ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        self._line.check()
        return await self._receiver.nack(batch, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        self._line.check()
        return await self._receiver.extend(batch, seconds)

    def status(self) -> Status:
        return self._receiver.status()

    async def aclose(self) -> None:
        if not self._line.is_cut:  # otherwise the broker is not notified
            await self._receiver.aclose()


class Handlers:
    """Handlers that mostly succeed, sometimes fail, and always fail for poison messages."""

    def __init__(self, ledgers: dict[str, Ledger], chance: random.Random) -> None:
        self._ledgers = ledgers
        self._chance = chance

    @subscribe("numbers", subscription="free", concurrency=20, **GIVE_UP)
    async def on_free(self, body: bytes) -> None:
        """Handle in any order."""
        await self._handle(self._ledgers["free"], _id(body))

    @subscribe("numbers", subscription="keys", concurrency=20, order="key", **GIVE_UP)
    async def on_key(self, body: bytes) -> None:
        """Handle each key's in order."""
        self._ledgers["keys"].begin(_id(body))
        await self._handle(self._ledgers["keys"], _id(body))

    @subscribe("numbers", subscription="batches", batch_size=20, batch_wait=0.05, **GIVE_UP)
    async def on_batch(self, bodies: list[bytes]) -> list[Exception | None]:
        """Handle in batches."""
        await asyncio.sleep(0.005)
        return [self._outcome(self._ledgers["batches"], _id(body)) for body in bodies]

    async def _handle(self, ledger: Ledger, id_: Id) -> None:
        outlasts_lease = self._chance.random() < 0.0005
        await asyncio.sleep(2 * LEASE if outlasts_lease else 0.005)
        if (error := self._outcome(ledger, id_)) is not None:
            raise error

    def _outcome(self, ledger: Ledger, id_: Id) -> Exception | None:
        """Return why a message is not handled, if it is not."""
        key, number = id_
        if number % 100 == 99:
            return Reject("poison") if key % 2 else ValueError("poison")
        dice = self._chance.random()
        if dice < 0.02:
            return ValueError("bad luck")
        if dice < 0.03:
            return Retry(after=0.1 if dice < 0.029 else LEASE)
        ledger.end(id_, "handled")
        return None


class Undertaker:
    """The consumer of the dead letters."""

    def __init__(self, ledgers: dict[str, Ledger]) -> None:
        self._ledgers = ledgers

    @subscribe("buried", subscription="undertaker")
    async def on_dead(self, body: bytes, message: Message) -> None:
        """Cross a dead message off."""
        ledger = self._ledgers[message.attributes["gizmo-dl-source-subscription"]]
        ledger.end(_id(body), "buried")


async def _connects(publisher: Publisher) -> bool:
    """Connect, and return whether that went well."""
    try:
        await publisher.connect()
    except PubSubError:
        return False
    return True


def _id(body: bytes) -> Id:
    key, number = body.split(b":")
    return int(key), int(number)


class World:
    """A broker with its publishers and subscribers."""

    def __init__(self, name: str, broker: Driver, chance: random.Random) -> None:
        self.name = name
        self.ledgers = {group: Ledger() for group in ("free", "keys", "batches")}
        self.lives: Counter[str] = Counter()
        self.deaths: list[str] = []
        """Errors that ended subscribers unexpectedly."""
        self.failing = True
        """Whether publishers publish, and subscribers are killed."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the subscribers shall end for good."""
        self._broker = broker
        self._faults = Faults(
            chance.randrange(1 << 32),
            replace(RATES, lose=0.0) if broker.capabilities.positions else RATES,
            longest_delay=LEASE,
            longest_outage=1.0,
        )
        self._chance = chance
        self._metrics = Metrics()

    async def run(self) -> None:
        """Publish and consume until ``over``."""
        handlers = (Handlers(self.ledgers, self._chance), Undertaker(self.ledgers))
        async with asyncio.TaskGroup() as group:
            for publisher in range(PUBLISHERS):
                group.create_task(self._publish(range(publisher, KEYS, PUBLISHERS)))
            for subscription in (s for h in handlers for s in collect_subscriptions(h, "soak")):
                for _ in range(MEMBERS):
                    group.create_task(self._consume(subscription))
        await self._broker.aclose()

    def stop_failing(self) -> None:
        """Publish no more, and let all go well from here on."""
        self.failing = False
        self._faults.stop()

    # Out: the next number of a key.

    async def _publish(self, keys: range) -> None:
        """Publish bursts, by one publisher after the other."""
        numbers: Counter[int] = Counter()
        while self.failing:
            async with self._publisher(Line(self._broker), "numbers") as publisher:
                for _ in range(BURSTS):
                    async with asyncio.TaskGroup() as group:
                        for key in self._chance.choices(keys, k=BURST):
                            group.create_task(self._publish_one(publisher, (key, numbers[key])))
                            numbers[key] += 1
                    await asyncio.sleep(PAUSE)

    async def _publish_one(self, publisher: Publisher, id_: Id) -> None:
        for ledger in self.ledgers.values():
            ledger.send(id_)
        try:
            await publisher.publish(b"%d:%d" % id_, key=str(id_[0]))
            state = State.CONFIRMED
        except PubSubError:
            state = State.OPEN
        for ledger in self.ledgers.values():
            ledger.published(id_, state)

    @asynccontextmanager
    async def _publisher(self, line: Line, topic: str) -> AsyncIterator[Publisher]:
        """Return a publisher that has connected in the end."""
        sender = FaultyDriver(line, self._faults).sender(topic)
        publisher = Publisher(sender, topic, metrics=self._metrics, limits=line.capabilities)
        while not await _connects(publisher):  # noqa: ASYNC110 - the broker has no notification
            await asyncio.sleep(PAUSE)
        try:
            yield publisher
        finally:
            await publisher.aclose()

    # In: lives that end well or not.

    async def _consume(self, subscription: Subscription) -> None:
        """Consume by one subscriber after the other."""
        while not self.over.done():
            line = Line(self._broker)
            async with self._publisher(line, "buried") as dead_letters:
                await self._live(line, self._subscriber(line, subscription, dead_letters))

    def _subscriber(
        self, line: Line, subscription: Subscription, dead_letters: Publisher
    ) -> Subscriber:
        driver = FaultyDriver(line, self._faults)
        topic, name = subscription.channel, subscription.subscription

        async def bury(message: Message) -> None:
            await dead_letters.publish(message)
            assert message.body is not None
            self.ledgers[name].give_up(_id(message.body))

        return Subscriber(
            driver.receiver(topic, name, ordered=subscription.order != "none"),
            subscription,
            topic=topic,
            capabilities=line.capabilities,
            metrics=self._metrics,
            dead_letter=bury if subscription.dead_letter else None,
        )

    async def _live(self, line: Line, subscriber: Subscriber) -> None:
        """Let a subscriber live for a while, then drain or kill it."""
        async with subscriber:
            running = asyncio.create_task(subscriber.run())
            span = self._chance.expovariate(1 / LIFE)
            await asyncio.wait([running, self.over], timeout=span, return_when="FIRST_COMPLETED")
            if running.done():
                self.lives["died"] += 1
            elif self.failing and self._chance.random() < 0.5:
                self.lives["killed"] += 1
                line.cut()
                await subscriber.drain(0)
            else:
                self.lives["drained"] += 1
                await subscriber.drain(self._chance.choice([0.0, 5.0]))
            await asyncio.wait([running])
            error = running.exception()
            if error is not None and not line.is_cut:
                self.deaths.append(repr(error))

    # Look.

    @property
    def lost(self) -> int:
        """How many confirmed messages have not arrived in a subscription."""
        return sum(len(ledger.lost) for ledger in self.ledgers.values())

    def __str__(self) -> str:
        of_each = self.ledgers["free"].counts
        total = sum((ledger.counts for ledger in self.ledgers.values()), Counter[str]())
        counts = [f"{total[name]:,} {name}" for name in ("handled", "buried", "duplicates")]
        lives = [f"{times} {end}" for end, times in sorted(self.lives.items())]
        return (
            f"{self.name}: {of_each['confirmed']:,} published (and {of_each['open']} open) "
            f"to {len(self.ledgers)} groups, {', '.join((*counts, *lives))}"
        )

    def problems(self) -> list[str]:
        """List the violations."""
        found = [f"{self.name}: a subscriber died of {death}" for death in self.deaths]
        for group, ledger in self.ledgers.items():
            if ledger.lost:
                found.append(f"{self.name}/{group} lost {len(ledger.lost)}: {ledger.lost[:10]}")
            if not ledger.adds_up:
                found.append(f"{self.name}/{group} does not add up: {dict(ledger.counts)}")
            if ledger.out_of_order:
                late = ledger.out_of_order
                found.append(f"{self.name}/{group} began {len(late)} out of order: {late[:10]}")
        return found


class Watch:
    """Print figures now and then, and remember how much memory there was."""

    def __init__(self, worlds: Sequence[World], log: LogBroker) -> None:
        self.memory: list[int] = []
        self._worlds = worlds
        self._log = log
        self._begun = time.monotonic()

    async def watch(self, seconds: float) -> None:
        """Report until ``seconds`` from the start are over."""
        while (left := seconds - self._seconds) > 0:
            await asyncio.sleep(min(REPORT_EVERY, left))
            self.report()

    def report(self) -> None:
        """Print a line, and take the memory down."""
        self._log.truncate("numbers")
        self._log.truncate("buried")
        gc.collect()
        self.memory.append(sys.getallocatedblocks())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = 100 * (usage.ru_utime + usage.ru_stime) / self._seconds
        print(
            f"{self._seconds:5.0f} s, {cpu:.0f} % CPU, {self.memory[-1]:,} blocks, "
            f"{usage.ru_maxrss // 1024} MB at most; " + "; ".join(map(str, self._worlds)),
            flush=True,
        )

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def problems(self) -> list[str]:
        """Return whether memory has grown since half time."""
        half, end = self.memory[len(self.memory) // 2], self.memory[-1]
        return [f"memory grew from {half:,} to {end:,} blocks"] if end > GROWTH * half else []


async def main(seconds: float, seed: int) -> bool:
    """Let the worlds fail for ``seconds``, then settle; return whether all is well."""
    chance = random.Random(seed)
    log = LogBroker(partitions=8, ahead=200, commit_every=5, rebalance_seconds=1.0, hole_every=7)
    worlds = [World("memory", MemoryDriver(lease=LEASE), chance), World("log", log, chance)]
    watch = Watch(worlds, log)
    async with asyncio.TaskGroup() as group:
        for world in worlds:
            group.create_task(world.run())
        await watch.watch(seconds)
        problems = watch.problems()
        for world in worlds:
            world.stop_failing()
        await _settle(worlds)
        for world in worlds:
            world.over.set_result(None)
    watch.report()
    problems += [problem for world in worlds for problem in world.problems()]
    print("\n".join(problems) or "0 lost, every key began in order, memory is flat")
    return not problems


async def _settle(worlds: Sequence[World]) -> None:
    """Wait, up to a limit, until no confirmed message is outstanding."""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while any(world.lost for world in worlds):  # noqa: ASYNC110 - it polls
                await asyncio.sleep(0.2)
    except TimeoutError:
        print(f"not all arrived in {SETTLE_SECONDS:g} s")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m tests.endurance.memory.soak")
    arguments.add_argument("seconds", nargs="?", type=float, default=SECONDS)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    logging.getLogger("gizmopy").setLevel(logging.CRITICAL)  # failures are the point
    sys.exit(0 if asyncio.run(main(given.seconds, given.seed)) else 1)
