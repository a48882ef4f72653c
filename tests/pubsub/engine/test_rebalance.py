"""The engine on a broker that keeps positions: commits are true, whatever the group does."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress

import pytest

from gizmopy.errors import PubSubError, Reject
from gizmopy.pubsub import Message, RetryPolicy
from tests.pubsub.engine.support import Gates, Member, broker_of, send
from tests.pubsub.log_broker import LogBroker, Record
from tests.pubsub.support import turns, until

COMMIT_FAILED = PubSubError("the group rebalances", transient=False)
TIMED_OUT = PubSubError("no answer", transient=True)


def numbers(count: int) -> list[str]:
    """Return ids of messages without a key."""
    return [str(number) for number in range(count)]


# Commits


async def test_only_messages_handled_without_a_gap_are_committed() -> None:
    """Messages handled above an unfinished one wait for it; then all are committed at once."""
    gates = Gates()
    async with broker_of(hole_every=2) as broker:
        await send(broker, *numbers(4))
        async with Member(broker, gates, concurrency=4) as member:
            await until(lambda: len(gates.started) == 4)
            gates.open("1", "2", "3")
            await until(lambda: member.metric("commit_lag") == 3)
            assert broker.committed("t", "s") == {}
            gates.open("0")
            await until(lambda: broker.committed("t", "s") == {0: 5})
            assert member.metric("commit_lag") == 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("order", ["none", "key", "partition"])
async def test_no_unhandled_message_is_ever_below_a_commit(order: str, seed: int) -> None:
    """In whatever order handlers end; each message is handled once, and in order."""
    chance = random.Random(seed)
    handled: dict[int, set[int]] = defaultdict(set)
    by_lane: dict[object, list[int]] = defaultdict(list)

    async with broker_of(partitions=3, hole_every=chance.choice([0, 2]), ahead=20) as broker:

        async def handle(message: Message) -> None:
            assert isinstance(message.raw, Record)
            by_lane[message.key if order == "key" else message.partition].append(int(message.id[1]))
            await turns(chance.randrange(10))
            handled[message.raw.partition].add(message.raw.offset)
            for number, committed in broker.committed("t", "s").items():
                below = {o for o in broker.logs("t")[number].offsets if o < committed}
                assert below <= handled[number]

        sent = [f"{key}{number}" for number in range(10) for key in "abcdefghij"]
        await send(broker, *sent)
        async with Member(broker, handle, order=order, concurrency=chance.randint(2, 20)):
            await until(lambda: broker.is_consumed("t", "s"))
        assert sum(map(len, handled.values())) == len(sent)
        assert sum(map(len, by_lane.values())) == len(sent)
        if order != "none":
            assert all(lane == sorted(lane) for lane in by_lane.values())


async def test_a_message_that_is_retried_holds_the_commit() -> None:
    """It is retried in place; when it succeeds, the messages above it are committed too."""
    fails = 4
    done: list[str] = []

    async def handle(message: Message) -> None:
        nonlocal fails
        if message.id == "0" and fails:
            fails -= 1
            await until(lambda: len(done) == 2)
            assert broker.committed("t", "s") == {}
            raise ValueError
        done.append(message.id)

    async with broker_of() as broker:
        await send(broker, *numbers(3))
        async with Member(broker, handle, concurrency=2):
            await until(lambda: broker.is_consumed("t", "s"))
    assert done == ["1", "2", "0"]


async def test_a_dead_letter_is_committed_once_it_is_confirmed() -> None:
    """Until then the mark of its partition stays below it."""
    refusals = [TIMED_OUT, TIMED_OUT]
    committed: list[dict[int, int]] = []

    async def handle(message: Message) -> None:
        if message.id == "0":
            raise Reject("poison")

    async def publish(_: Message) -> None:
        await turns()
        committed.append(broker.committed("t", "s"))
        if refusals:
            raise refusals.pop()

    async with broker_of() as broker:
        await send(broker, *numbers(3))
        async with Member(broker, handle, concurrency=2, dead_letter=publish):
            await until(lambda: broker.is_consumed("t", "s"))
    assert committed == [{}, {}, {}]


async def test_a_commit_that_fails_does_not_end_the_subscriber() -> None:
    """Its offsets are part of the next commit, and nothing is handled twice."""
    gates = Gates()
    async with broker_of() as broker:
        broker.commit_errors.append(COMMIT_FAILED)
        await send(broker, *numbers(2))
        async with Member(broker, gates) as member:
            gates.open("0")
            await until(lambda: member.metric("settle_failures") == 1)
            assert broker.committed("t", "s") == {}
            gates.open("1")
            await until(lambda: broker.committed("t", "s") == {0: 2})
    assert gates.finished == ["0", "1"]


async def test_a_commit_that_fails_for_now_is_retried() -> None:
    """The message is not handled again for it."""
    gates = Gates()
    gates.open("0")
    async with broker_of() as broker:
        broker.commit_errors.extend([TIMED_OUT, TIMED_OUT])
        await send(broker, "0")
        async with Member(broker, gates) as member:
            await until(lambda: broker.committed("t", "s") == {0: 1})
            assert member.metric("settle_failures") == 0
    assert gates.finished == ["0"]


async def test_an_outage_loses_nothing_and_repeats_nothing() -> None:
    """The subscriber continues when the broker is back, also if it was away from the start."""
    gates = Gates()
    gates.open(*numbers(3))
    async with broker_of() as broker:
        await send(broker, *numbers(2))
        with broker.outage():
            async with Member(broker, gates) as early:
                await turns()
                assert not early.subscriber.connected
        async with Member(broker, gates):
            await until(lambda: broker.is_consumed("t", "s"))
            with broker.outage():
                await turns()
            await send(broker, "2")
            await until(lambda: broker.is_consumed("t", "s"))
    assert gates.finished == numbers(3)


async def test_a_stuck_message_stops_the_intake_of_its_partition_only() -> None:
    """Its partition is delivered ahead up to a limit; its neighbour continues."""
    gates = Gates()
    async with broker_of(partitions=2, ahead=5) as broker:
        stuck, free = [f"a{n}" for n in range(20)], [f"d{n}" for n in range(20)]
        gates.open(*stuck[1:], *free)
        await send(broker, *stuck, *free)
        async with Member(broker, gates, concurrency=3):
            await until(lambda: broker.committed("t", "s") == {0: 20})
            await turns()
            assert sorted(gates.started) == sorted([*stuck[:5], *free])
            gates.open("a0")
            await until(lambda: broker.is_consumed("t", "s"))


# Revokes


async def test_a_revoke_waits_for_running_handlers_and_commits_them() -> None:
    """Other messages are dropped for their next owner; nothing is handled twice."""
    mine, yours = Gates(), Gates()
    sent = [f"a{number}" for number in range(5)]
    yours.open(*sent)
    async with broker_of(partitions=2) as broker:
        await send(broker, *sent)
        async with Member(broker, mine, concurrency=2) as first:
            await until(lambda: len(mine.started) == 2)
            second = Member(broker, yours)
            joining = asyncio.create_task(second.__aenter__())
            await until(lambda: first.metric("lost") == 3)
            await turns()
            assert not joining.done()
            mine.open(*sent)
            await joining
            assert broker.committed("t", "s") == {1: 2}
            await until(lambda: broker.is_consumed("t", "s"))
            await second.drain(5)
    assert (sorted(mine.finished), yours.finished) == (sent[:2], sent[2:])


@pytest.mark.parametrize("seconds", [0.05, 0.0])
@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_handler_that_outlasts_the_rebalance_is_cancelled(
    order: str, seconds: float
) -> None:
    """Its message is not acked, and is delivered again; also if the driver waits no longer."""
    mine = Gates()
    # With 0 s, the driver cancels the revoke at its first wait, as it does on a busy machine.
    async with broker_of(rebalance_seconds=seconds) as broker:
        await send(broker, "a0", "a1", "b2")
        async with Member(broker, mine, concurrency=2, order=order):
            await until(lambda: len(mine.started) == 2)
            first_two = list(mine.started)
            await broker.rebalance("t", "s")
            assert broker.committed("t", "s") == {}
            assert mine.finished == []
            mine.open("a0", "a1", "b2")
            await until(lambda: broker.is_consumed("t", "s"))
    assert sorted(mine.finished) == ["a0", "a1", "b2"]
    assert sorted(mine.started) == sorted([*first_two, "a0", "a1", "b2"])


async def test_a_message_handled_after_its_assignment_is_not_acked() -> None:
    """Also if the same member has the partition again: only the new attempt counts."""
    late, gates = asyncio.Event(), Gates()

    async def handle(message: Message) -> None:
        if message.id in gates.started:
            await gates(message)
            return
        gates.started.append(message.id)
        while not late.is_set():
            with suppress(asyncio.CancelledError):  # it ignores its cancellation
                await late.wait()
        gates.finished.append(f"late {message.id}")

    async with broker_of(rebalance_seconds=0.5) as broker:
        await send(broker, "0")
        async with Member(broker, handle, concurrency=2) as member:
            await until(lambda: gates.started)
            await broker.rebalance("t", "s")
            await until(lambda: gates.started == ["0", "0"])
            late.set()
            await until(lambda: gates.finished)
            await turns()
            assert broker.committed("t", "s") == {}
            assert member.metric("stale_settles") == 1
            gates.open("0")
            await until(lambda: broker.committed("t", "s") == {0: 1})
    assert gates.finished == ["late 0", "0"]


async def test_a_message_that_waits_for_a_retry_does_not_delay_the_rebalance() -> None:
    """Its next owner handles it."""
    errors = [ValueError()]
    handled: list[str] = []
    waits = asyncio.Event()

    async def handle(message: Message) -> None:
        if errors:
            raise errors.pop()
        handled.append(message.id)

    async def sleep(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    async with broker_of() as broker:
        await send(broker, "0")
        async with Member(broker, handle, sleep=sleep):
            await waits.wait()
            await broker.rebalance("t", "s")
            await until(lambda: broker.is_consumed("t", "s"))
    assert handled == ["0"]


@pytest.mark.parametrize("seed", range(3))
async def test_rebalances_alone_repeat_nothing(seed: int) -> None:
    """If running handlers end in time, and messages start in their order."""
    chance = random.Random(seed)
    handled: list[str] = []

    async def handle(message: Message) -> None:
        await turns(chance.randrange(20))
        handled.append(message.id)

    async with broker_of(partitions=3) as broker:
        async with Member(broker, handle, concurrency=8):
            for begin in range(0, 300, 30):
                await send(broker, *map(str, range(begin, begin + 30)))
                await turns(chance.randrange(30))
                await broker.rebalance("t", "s")
            await until(lambda: broker.is_consumed("t", "s"))
    assert sorted(handled, key=int) == numbers(300)


# The end of a member


async def test_a_crash_repeats_all_messages_above_the_commit() -> None:
    """No message below the commit is repeated, and no other is left out."""
    mine, yours = Gates(), Gates()
    async with broker_of(hole_every=3) as broker:
        await send(broker, *numbers(20))
        first = await Member(broker, mine, concurrency=10).__aenter__()
        await until(lambda: len(mine.started) == 10)
        mine.open("0", "1", "2", "5", "7")
        await until(lambda: first.metric("commit_lag") == 2)
        await first.crash()
        assert sorted(mine.finished) == ["0", "1", "2", "5", "7"]
        yours.open(*numbers(20))
        async with Member(broker, yours):
            await until(lambda: broker.is_consumed("t", "s"))
    assert yours.finished == numbers(20)[3:]


async def test_a_crash_repeats_the_messages_acked_since_the_last_commit() -> None:
    """If the driver commits at intervals; committed messages are not repeated."""
    mine, yours = Gates(), Gates()
    yours.open(*numbers(10))
    async with broker_of(commit_every=3) as broker:
        await send(broker, *numbers(10))
        first = await Member(broker, mine).__aenter__()
        for number in range(7):
            mine.open(str(number))
            await until(lambda: len(mine.finished) == number + 1)  # noqa: B023 - awaited here
            await turns()
        assert broker.committed("t", "s") == {0: 6}
        await first.crash()
        async with Member(broker, yours):
            await until(lambda: len(yours.finished) == 4)
        assert broker.is_consumed("t", "s")
    assert yours.finished == numbers(10)[6:]


async def test_a_clean_stop_repeats_only_unfinished_messages() -> None:
    """Running handlers finish and are committed; with concurrency 1 nothing is repeated."""
    mine, yours = Gates(), Gates()
    async with broker_of(commit_every=100) as broker:
        await send(broker, *numbers(5))
        first = await Member(broker, mine).__aenter__()
        mine.open("0")
        await until(lambda: mine.started == ["0", "1"])
        draining = asyncio.create_task(first.drain(5))
        await turns()
        mine.open(*numbers(5))
        report = await draining
        assert (report.released, report.cancelled, report.failed_to_settle) == (3, 0, 0)
        assert broker.committed("t", "s") == {0: 2}
        yours.open(*numbers(5))
        async with Member(broker, yours):
            await until(lambda: len(yours.finished) == 3)
    assert mine.finished + yours.finished == numbers(5)


@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_drain_that_runs_out_of_time_acks_nothing_unfinished(order: str) -> None:
    """Cancelled messages are repeated, and so are those handled above them."""
    mine, yours = Gates(), Gates()
    async with broker_of() as broker:
        await send(broker, "a0", "b1", "c2")
        first = await Member(broker, mine, concurrency=3, order=order).__aenter__()
        await until(lambda: len(mine.started) == 3)
        mine.open("b1")
        await until(lambda: first.metric("commit_lag") == 1)
        report = await first.drain(0)
        assert report.cancelled == 2
        assert broker.committed("t", "s") == {}
        yours.open("a0", "b1", "c2")
        async with Member(broker, yours):
            await until(lambda: broker.is_consumed("t", "s"))
    assert yours.finished == ["a0", "b1", "c2"]


# All at once


class Storm:
    """Members that join, leave and die at random while messages are published."""

    KEYS = "abcdefghijkl"
    ROUNDS = 20
    EACH = 3
    """Messages of each key in a round."""

    def __init__(self, seed: int, order: str) -> None:
        self.chance = random.Random(seed)
        self.order = order
        self.handled: list[str] = []
        self.members: list[Member] = []

    async def handle(self, message: Message) -> None:
        await turns(self.chance.randrange(20))
        if self.chance.random() < 0.05:
            raise ValueError
        self.handled.append(message.id)

    async def run(self, broker: LogBroker) -> list[str]:
        """Return the ids of the messages, after all are handled and all members have left."""
        sent: list[str] = []
        for begin in range(0, self.ROUNDS * self.EACH, self.EACH):
            new = [f"{key}{n}" for n in range(begin, begin + self.EACH) for key in self.KEYS]
            await send(broker, *new)
            sent.extend(new)
            if self.chance.random() < 0.3:
                broker.commit_errors.append(self.chance.choice([COMMIT_FAILED, TIMED_OUT]))
            await self.change(broker)
            await turns(self.chance.randrange(60))
        if not self.members:
            await self.join(broker)
        await until(lambda: {*self.handled} == {*sent})
        for member in self.members:
            await member.drain(5)
        return sent

    async def change(self, broker: LogBroker) -> None:
        """Let a member join, leave or die, or only rebalance."""
        change = self.chance.choice([self.join, self.join, self.leave, self.die, self.rebalance])
        await change(broker)

    async def join(self, broker: LogBroker) -> None:
        options = {"concurrency": self.chance.randint(1, 8), "order": self.order}
        retry = RetryPolicy(attempts=100)
        member = Member(broker, self.handle, retry=retry, **options)
        self.members.append(await member.__aenter__())

    async def leave(self, broker: LogBroker) -> None:
        if self.members:
            await self.members.pop(0).drain(self.chance.choice([0, 5]))

    async def die(self, broker: LogBroker) -> None:
        if self.members:
            await self.members.pop(0).crash()

    async def rebalance(self, broker: LogBroker) -> None:
        if self.members:
            await broker.rebalance("t", "s")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("order", ["none", "key"])
async def test_members_that_come_and_go_lose_nothing(order: str, seed: int) -> None:
    """All are handled and committed, in order; only uncommitted messages are repeated."""
    storm = Storm(seed, order)
    commit_every = storm.chance.choice([1, 4])
    async with broker_of(partitions=4, ahead=30, commit_every=commit_every) as broker:
        sent = await storm.run(broker)
        assert broker.is_consumed("t", "s")
    assert len(storm.handled) - len(sent) <= broker.repeated
    if order == "key":
        firsts = list(dict.fromkeys(storm.handled))
        for key in Storm.KEYS:
            numbers_of_key = [int(id_[1:]) for id_ in firsts if id_[0] == key]
            assert numbers_of_key == sorted(numbers_of_key)
