"""Invariants of the engine, whatever the handlers, the broker and the drain do, and whenever."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.errors import PubSubError, Reject, Retry, UndecodableMessage
from gizmopy.pubsub import Capabilities, DrainReport, Message, RetryPolicy
from tests.pubsub.support import (
    Bench,
    FakeReceiver,
    capabilities,
    held,
    lose_lease,
    message,
    no_wait,
)

TURNS = 3000
"""Turns of the loop after which a run that has not ended never will."""
ACK_TRIES = 3
TRANSIENT = PubSubError("throttled", transient=True)
PERMANENT = PubSubError("its lease is over", transient=False)

ERRORS: dict[str, BaseException] = {
    "raise": ValueError("no"),
    "retry": Retry(),
    "later": Retry(after=3),
    "much later": Retry(after=300),
    "postpone": Retry(counted=False),
    "reject": Reject("no"),
    "undecodable": UndecodableMessage("no"),
    "cancelled": asyncio.CancelledError(),
}


class Broker(FakeReceiver):
    """Deliver messages a few at a time, and again those that were given back or lost.

    Each delivery is a message of its own, with the id ``number#delivery``.
    """

    def __init__(self, story: Story, keys: Sequence[str | None]) -> None:
        super().__init__()
        self.handed_out: list[Message] = []
        self.refused: list[Message] = []
        self._random = random.Random(story.seed)
        self._tries: Counter[Message] = Counter()
        self.put(*(_delivery(n, key, 1) for n, key in enumerate(keys)))
        self.ack_errors = story.ack_errors()

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        batch = await super().receive(self._random.randint(1, limit), wait)
        self.handed_out.extend(batch)
        return batch

    async def ack(self, batch: Sequence[Message]) -> list[Exception | None]:
        results = await super().ack(batch)
        for each, error in zip(batch, results, strict=True):
            self._tries[each] += 1
            if error is not None and (error is PERMANENT or self._tries[each] == ACK_TRIES):
                self.refused.append(each)
                self.deliver_again(each)
        return results

    async def nack(self, batch: Sequence[Message], delay: float) -> list[Exception | None]:
        results = await super().nack(batch, delay)
        for each in batch:
            self.deliver_again(each)
        return results

    def deliver_again(self, old: Message) -> None:
        self.put(_delivery(_number(old), old.key, old.delivery + 1))


@dataclass(frozen=True)
class Story:
    """The events of one example."""

    keys: list[str | None]
    outcomes: list[list[tuple[int, str]]]
    """For the handlings of each message: turns that they take, and how they end."""
    order: str
    concurrency: int
    batch_size: int
    max_in_flight: int
    can: Capabilities
    dead_letters: list[bool] | None
    """Whether the next dead letters are refused; None if there is no channel for them."""
    acks: list[str]
    lost_at: list[int]
    """At these turns the broker takes a message away."""
    seed: int

    def ack_errors(self) -> list[Any]:
        errors = {"ok": None, "transient": TRANSIENT, "permanent": PERMANENT}
        return [errors[ack] for ack in self.acks]


KEYS = st.sampled_from(["a", "b", "c", None])
OUTCOME = st.tuples(st.integers(0, 4), st.sampled_from(["return", *ERRORS]))


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Draw a story, in which everything fails a finite number of times."""
    keys = draw(st.lists(KEYS, min_size=1, max_size=12))
    concurrency = draw(st.integers(1, 8))
    batch_size = draw(st.sampled_from([0, 0, 1, 3]))
    at_once = concurrency * max(1, batch_size)
    return Story(
        keys=keys,
        outcomes=[draw(st.lists(OUTCOME, max_size=5)) for _ in keys],
        order=draw(st.sampled_from(["none", "key", "partition"])),
        concurrency=concurrency,
        batch_size=batch_size,
        max_in_flight=at_once + draw(st.integers(0, 5)),
        can=capabilities(
            can_nack=draw(st.booleans()),
            native_delay=draw(st.booleans()),
            delivery_count=draw(st.booleans()),
            batch_messages=draw(st.integers(1, 4)),
        ),
        dead_letters=draw(st.none() | st.lists(st.booleans(), max_size=4)),
        acks=draw(st.lists(st.sampled_from(["ok", "ok", "transient", "permanent"]), max_size=8)),
        lost_at=draw(st.lists(st.integers(1, 60), max_size=3)),
        seed=draw(st.integers(0, 2**16)),
    )


@dataclass
class Handlings:
    """Handle messages as a story says, and check the promises of the engine."""

    story: Story
    left: list[list[tuple[int, str]]] = field(init=False)
    started: dict[Message, None] = field(default_factory=dict)
    """Each message once, in the order of their first handlings."""
    returned: set[Message] = field(default_factory=set)
    at_work: Counter[object] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.left = [list(outcomes) for outcomes in self.story.outcomes]

    async def one(self, received: Message) -> None:
        (error,) = await self.many([received])
        if error is not None:
            raise error

    async def many(self, batch: Sequence[Message]) -> list[BaseException | None]:
        lanes = [self.lane(each) for each in batch]
        self.at_work.update(lane for lane in lanes if lane is not None)
        assert not self.at_work or max(self.at_work.values()) <= 1
        self.started.update(dict.fromkeys(batch))
        plans = [self._next(each) for each in batch]
        try:
            for _ in range(max(turns for turns, _ in plans)):
                await asyncio.sleep(0)
        finally:
            self.at_work.subtract(lane for lane in lanes if lane is not None)
        errors = [ERRORS.get(outcome) for _, outcome in plans]
        self.returned.update(m for m, error in zip(batch, errors, strict=True) if error is None)
        return errors

    def _next(self, received: Message) -> tuple[int, str]:
        left = self.left[_number(received)]
        return left.pop(0) if left else (0, "return")

    def lane(self, received: Message) -> object:
        if self.story.order == "partition":
            return "the only one"
        return received.key if self.story.order == "key" else None


class Run:
    """One run of the engine through a story."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.broker = Broker(story, story.keys)
        self.handlings = Handlings(story)
        batch = {"batch_handler": self.handlings.many, "batch_size": story.batch_size}
        self.bench = Bench(
            self.handlings.one,
            story.can,
            receiver=self.broker,
            order=story.order,
            concurrency=story.concurrency,
            max_in_flight=story.max_in_flight,
            retry=RetryPolicy(attempts=2),
            max_deliveries=2,
            dead_letter=None if story.dead_letters is None else True,
            sleep=no_wait,
            **(batch if story.batch_size else {}),
        )
        refusals = story.dead_letters or []
        self.bench.dead_letter_errors = [TRANSIENT for refused in refusals if refused]
        self.report = DrainReport()
        self.expected = 0
        """The report that the drain must return."""

    async def run_turns(self, last: int, drain_timeout: float) -> None:
        """Run for ``last`` turns, or until all messages are settled; then drain."""
        bench = self.bench
        async with bench.subscriber:
            task = asyncio.create_task(bench.subscriber.run())
            for turn in range(last):
                await asyncio.sleep(0)
                if turn in self.story.lost_at:
                    self.lose_one()
                assert not task.done()
                if turn > max(self.story.lost_at, default=0) and self.is_done:
                    break
            in_flight = self.gauge("in_flight") - bench.metric("received")
            self.report = await bench.subscriber.drain(drain_timeout)
            self.expected = int(in_flight + bench.metric("received"))
            await task

    def lose_one(self) -> None:
        """Let the broker take back the oldest message in flight, as if its lease had ended."""
        if in_flight := held(self.bench.subscriber):
            before = len(self.bench.settled)
            lose_lease(self.bench.subscriber, in_flight[0])
            if len(self.bench.settled) > before:
                self.broker.deliver_again(in_flight[0])

    @property
    def is_done(self) -> bool:
        return not self.broker.queue and self.gauge("in_flight") == 0

    @property
    def received(self) -> list[Message]:
        """The messages that were delivered, without those returned as the receiver closed."""
        return self.broker.handed_out[: int(self.bench.metric("received"))]

    def gauge(self, name: str) -> float:
        self.bench.subscriber.measure()
        instrument = self.bench.metrics.gauge(f"gizmo_pubsub_{name}", "")
        return instrument.child("t", "s").value

    def check(self) -> None:
        """Check that each message has one outcome, is acked only if handled, and is in order."""
        dead_lettered = {dead.id for dead in self.bench.dead}
        for acked in self.broker.acked:
            assert acked in self.handlings.returned or acked.id in dead_lettered
        settled = Counter([*self.broker.acked, *(m for m, _ in self.broker.nacked)])
        assert all(times == 1 for times in settled.values())
        reported = Counter(id_ for id_, _ in self.bench.outcomes)
        reported.update(refused.id for refused in self.broker.refused)
        assert reported == Counter(received.id for received in self.received)
        assert self.gauge("in_flight") == self.gauge("in_flight_bytes") == 0
        assert sum(self.report) == self.expected
        self._check_order()

    def _check_order(self) -> None:
        """Check that the first attempts of a key are in the order of their receipt."""
        place = {received: n for n, received in enumerate(self.received)}
        last: dict[object, int] = {}
        for started in self.handlings.started:
            if (lane := self.handlings.lane(started)) is not None:
                assert place[started] > last.get(lane, -1)
                last[lane] = place[started]


def _delivery(number: int, key: str | None, delivery: int) -> Message:
    return message(b"{}", id=f"{number}#{delivery}", key=key, delivery=delivery)


def _number(received: Message) -> int:
    return int(received.id.partition("#")[0])


@settings(max_examples=80, deadline=None)
@given(stories())
def test_every_message_is_settled_in_the_end(story: Story) -> None:
    """Given enough time, every message is acked, or confirmed as a dead letter."""
    run = Run(story)
    asyncio.run(run.run_turns(TURNS, 5))
    run.check()
    assert not run.broker.queue
    if story.can.can_nack:  # else the broker may have refused the last ack
        done = {_number(acked) for acked in run.broker.acked}
        assert done == set(range(len(story.keys)))


@settings(max_examples=80, deadline=None)
@given(stories(), st.integers(1, 60), st.sampled_from([0.0, 5.0]))
def test_a_drain_at_any_time_loses_nothing(story: Story, turn: int, timeout: float) -> None:
    """Each message is settled once, given back, lost, or still at the broker."""
    run = Run(story)
    asyncio.run(run.run_turns(turn, timeout))
    run.check()
