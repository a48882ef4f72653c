"""The broker that keeps positions, as the engine's tests and the conformance suite use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Hashable, Sequence

import pytest
import pytest_asyncio

from gizmopy.errors import PubSubError, TopicNotFound, UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub.driver import Driver
from tests.pubsub.log_broker import LogBroker, LogReceiver, Record
from tests.pubsub.support import turns, until


class Member:
    """A member of the group ``s`` that does nothing by itself."""

    def __init__(self, receiver: LogReceiver) -> None:
        self.receiver = receiver
        self.held: list[Message] = []
        self.revoked: list[set[Hashable]] = []
        self.may_let_go = asyncio.Event()
        self.may_let_go.set()

    async def revoke(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.revoked.append(set(partitions))
        await self.may_let_go.wait()

    async def take(self, limit: int = 100) -> list[str]:
        """Receive the available messages, and return their ids."""
        batch = await self.receiver.receive(limit, 0)
        self.held.extend(batch)
        return [message.id for message in batch]

    async def ack(self, *ids: str) -> Sequence[Exception | None]:
        """Ack up to these messages, each of another partition."""
        return await self.receiver.ack([m for m in self.held if m.id in ids])


class Group:
    """A broker, and the members that a test has made."""

    def __init__(self) -> None:
        self.broker = LogBroker(partitions=2)

    async def join(self) -> Member:
        member = Member(self.broker.receiver("t", "s", ordered=True))
        await member.receiver.connect(member.revoke)
        return member

    async def send(self, *ids: str) -> None:
        """Send messages; the letters before the digits are the key."""
        batch = [Message("t", b"x", id=i, key=i.rstrip("0123456789") or None) for i in ids]
        assert await self.broker.sender("t").send(batch) == [None] * len(batch)

    @property
    def committed(self) -> dict[int, int]:
        return self.broker.committed("t", "s")


@pytest_asyncio.fixture
async def group() -> AsyncIterator[Group]:
    """An empty group on a broker whose topics have two partitions: 0 of d, 1 of a."""
    made = Group()
    yield made
    await made.broker.aclose()


def test_it_is_a_driver() -> None:
    """It has the whole contract, as mypy sees it."""
    driver: Driver = LogBroker()
    assert driver.capabilities.positions


async def test_a_message_arrives_unchanged(group: Group) -> None:
    """Body, key, attributes and time are those published; raw has its place in the log."""
    sent = Message("t", b"\xff\x00", key="a", attributes={"ä": "ü"}, id="7")
    await group.broker.sender("t").send([sent])
    member = await group.join()
    (received,) = await member.receiver.receive(10, 0)
    assert (received.topic, received.body, received.key) == ("t", b"\xff\x00", "a")
    assert (received.attributes, received.id) == ({"ä": "ü"}, "7")
    assert received.published_at == sent.published_at
    assert (received.delivery, received.partition) == (1, 1)
    assert received.raw == Record(partition=1, offset=0, generation=1)


async def test_a_key_stays_in_its_partition_in_order(group: Group) -> None:
    """Messages of one key share a partition; those without a key go to each in turn."""
    await group.send("a1", "d1", "a2", "d2", "1", "2")
    member = await group.join()
    await member.take()
    by_partition = [[m.id for m in member.held if m.partition == number] for number in (0, 1)]
    assert by_partition == [["d1", "d2", "1"], ["a1", "a2", "2"]]


async def test_offsets_may_have_holes() -> None:
    """A hole is not delivered, and blocks nothing."""
    broker = LogBroker(partitions=1, hole_every=2, ahead=1)
    receiver = broker.receiver("t", "s", ordered=True)
    await receiver.connect(Member(receiver).revoke)
    await broker.sender("t").send([Message("t", b"", key="a") for _ in range(5)])
    offsets = []
    for _ in range(5):
        (message,) = await receiver.receive(10, 0)
        assert isinstance(message.raw, Record)
        offsets.append(message.raw.offset)
        assert await receiver.ack([message]) == [None]
    assert offsets == [0, 1, 3, 4, 6]
    assert broker.committed("t", "s") == {0: 7}
    await broker.aclose()


async def test_members_share_and_groups_each_get_all(group: Group) -> None:
    """Each partition belongs to one member; another group starts at the beginning."""
    await group.send("a1", "d1")
    first, second = await group.join(), await group.join()
    assert (await first.take(), await second.take()) == (["d1"], ["a1"])
    other = Member(group.broker.receiver("t", "other", ordered=False))
    await other.receiver.connect(other.revoke)
    assert sorted(await other.take()) == ["a1", "d1"]


async def test_a_receive_waits_for_messages(group: Group) -> None:
    """It returns when a message is sent, when its time is over, or when it is closed."""
    member = await group.join()
    assert await member.receiver.receive(10, 0.001) == []
    waiting = asyncio.create_task(member.receiver.receive(10, 10))
    await turns(3)
    await group.send("a1")
    assert [message.id for message in await waiting] == ["a1"]
    waiting = asyncio.create_task(member.receiver.receive(10, 10))
    await turns(3)
    await member.receiver.aclose()
    assert await waiting == []
    with pytest.raises(UsageError, match="closed"):
        await member.receiver.receive(1, 0)


async def test_a_partition_is_delivered_to_a_limit_beyond_its_last_ack(group: Group) -> None:
    """Without room it is left out, its neighbour is not, and an ack makes room."""
    group.broker.ahead = 2
    await group.send("a1", "a2", "a3", "d1", "d2", "d3")
    member = await group.join()
    assert sorted(await member.take()) == ["a1", "a2", "d1", "d2"]
    assert await member.take() == []
    waiting = asyncio.create_task(member.receiver.receive(10, 10))
    await turns(3)
    assert await member.ack("a2") == [None]
    assert [message.id for message in await waiting] == ["a3"]


async def test_no_partition_starves(group: Group) -> None:
    """If there is less room than messages, partitions take turns."""
    await group.send("a1", "a2", "d1", "d2")
    member = await group.join()
    taken = [await member.take(limit=1) for _ in range(4)]
    assert taken == [["d1"], ["a1"], ["d2"], ["a2"]]


async def test_a_group_continues_at_its_commit(group: Group) -> None:
    """An ack covers its partition up to the message; later messages are repeated."""
    await group.send("a1", "a2", "a3", "d1")
    member = await group.join()
    await member.take()
    assert await member.ack("a2") == [None]
    await member.receiver.aclose()
    assert group.committed == {1: 2}
    assert not group.broker.is_consumed("t", "s")
    member = await group.join()
    assert sorted(await member.take()) == ["a3", "d1"]
    await member.ack("a3", "d1")
    assert group.broker.is_consumed("t", "s")


async def test_an_ack_never_goes_back(group: Group) -> None:
    """Acking an earlier message later, or the same one twice, has no effect."""
    await group.send("a1", "a2")
    member = await group.join()
    await member.take()
    for acked in ("a2", "a1", "a2"):
        assert await member.ack(acked) == [None]
        assert group.committed == {1: 2}
    with pytest.raises(UsageError, match="one message for each partition"):
        await member.ack("a1", "a2")


async def test_members_give_up_partitions_before_others_get_them(group: Group) -> None:
    """A join revokes all partitions; nothing is delivered meanwhile, acks still count."""
    await group.send("a1", "a2", "d1")
    first = await group.join()
    await first.take()
    first.may_let_go.clear()
    joining = asyncio.create_task(group.join())
    await until(lambda: first.revoked)
    await group.send("a3")
    assert await first.take() == []
    assert await first.ack("a1") == [None]
    assert not joining.done()
    first.may_let_go.set()
    second = await joining
    assert first.revoked == [{0, 1}]
    assert await second.take() == ["a2", "a3"]
    assert await first.take() == ["d1"]


async def test_a_member_that_gives_up_nothing_is_waited_for_only_so_long(group: Group) -> None:
    """When the time for a rebalance is over, the partitions go to the others."""
    group.broker.rebalance_seconds = 0.01
    await group.send("a1")
    first = await group.join()
    await first.take()
    first.may_let_go.clear()
    second = await group.join()
    assert await second.take() == ["a1"]
    (refusal,) = await first.ack("a1")
    assert isinstance(refusal, PubSubError)
    assert not refusal.transient


async def test_acks_of_an_assignment_that_is_over_are_refused(group: Group) -> None:
    """Also if the same partition was assigned to the same member again."""
    await group.send("a1")
    member = await group.join()
    await member.take()
    await group.broker.rebalance("t", "s")
    (refusal,) = await member.ack("a1")
    assert isinstance(refusal, PubSubError)
    assert not refusal.transient
    assert group.committed == {}
    assert await member.take() == ["a1"]


async def test_members_that_join_during_a_rebalance_are_included(group: Group) -> None:
    """Members that come and go meanwhile are part of the same assignment."""
    first = await group.join()
    first.may_let_go.clear()
    joining = [asyncio.create_task(group.join()) for _ in range(2)]
    await until(lambda: first.revoked)
    first.may_let_go.set()
    second, third = [await join for join in joining]
    assert (second.revoked, third.revoked) == ([], [])
    await group.send("a1", "d1")
    assert [await m.take() for m in (first, second, third)] == [["d1"], ["a1"], []]


async def test_a_member_that_leaves_hands_its_partitions_on(group: Group) -> None:
    """Closing commits the acks, does not revoke, and waits for no other member."""
    group.broker.commit_every = 100
    await group.send("a1", "a2", "d1")
    first, second = await group.join(), await group.join()
    await second.take()
    await second.ack("a1")
    first.may_let_go.clear()
    await second.receiver.aclose()
    await second.receiver.aclose()
    assert group.committed == {1: 1}
    assert second.revoked == []
    first.may_let_go.set()
    await group.broker.rebalance("t", "s")
    assert sorted(await first.take()) == ["a2", "d1"]


async def test_a_member_that_dies_loses_its_uncommitted_acks(group: Group) -> None:
    """Its messages since the last commit go to the others."""
    group.broker.commit_every = 2
    await group.send("a1", "a2", "a3", "a4")
    first, second = await group.join(), await group.join()
    await second.take()
    for acked in ("a1", "a2", "a3"):
        assert await second.ack(acked) == [None]
    group.broker.kill(second.receiver)
    await group.broker.rebalance("t", "s")
    assert await first.take() == ["a3", "a4"]
    assert await second.take() == []
    (refusal,) = await second.ack("a4")
    assert isinstance(refusal, PubSubError)
    assert second.receiver.status().stalled


async def test_an_outage_is_transient(group: Group) -> None:
    """Every call fails, a pending receive too; afterwards everything continues."""
    member = await group.join()
    await group.send("a1", "a2")
    await member.take(1)
    waiting = asyncio.create_task(member.receiver.receive(1, 10))
    assert [m.id for m in await waiting] == ["a2"]
    waiting = asyncio.create_task(member.receiver.receive(1, 10))
    await turns(3)
    with group.broker.outage():
        for call in (waiting, member.ack("a1"), group.join(), group.send("a3")):
            with pytest.raises(PubSubError) as raised:
                await call
            assert raised.value.transient
    assert await member.ack("a1") == [None]
    await group.send("a3")
    assert await member.take() == ["a3"]
    assert member.revoked == []


async def test_a_commit_that_fails_can_be_retried(group: Group) -> None:
    """The acks get its error; they are part of the next commit."""
    await group.send("a1", "d1")
    member = await group.join()
    await member.take()
    failure = PubSubError("the group rebalances", transient=False)
    group.broker.commit_errors.append(failure)
    assert await member.ack("a1") == [failure]
    assert group.committed == {}
    assert await member.ack("d1") == [None]
    assert group.committed == {0: 1, 1: 1}


async def test_a_commit_that_fails_during_a_revoke_is_dropped(group: Group) -> None:
    """The rebalance continues; the acks since the last commit are lost."""
    group.broker.commit_every = 100
    await group.send("a1")
    first = await group.join()
    await first.take()
    assert await first.ack("a1") == [None]
    group.broker.commit_errors.append(PubSubError("the group rebalances", transient=False))
    second = await group.join()
    assert await second.take() == ["a1"]


async def test_a_missing_topic_is_an_error(group: Group) -> None:
    """Neither end connects to it."""
    group.broker.missing.add("t")
    with pytest.raises(TopicNotFound, match="'t' does not exist"):
        await group.join()
    with pytest.raises(TopicNotFound, match="'t' does not exist"):
        await group.broker.sender("t").connect()


async def test_messages_that_all_groups_have_committed_can_be_truncated(group: Group) -> None:
    """Offsets do not change, and members continue where they were."""
    await group.send("a1", "a2", "a3")
    member = await group.join()
    await member.take(2)
    await member.ack("a1")
    group.broker.truncate("t")
    await member.receiver.aclose()
    member = await group.join()
    assert await member.take() == ["a2", "a3"]
    await group.send("a4")
    (last,) = await member.receiver.receive(1, 0)
    assert isinstance(last.raw, Record)
    assert last.raw.offset == 3


async def test_lag_is_the_number_of_messages_not_delivered_yet(group: Group) -> None:
    """Each assigned partition has its own."""
    await group.send("a1", "a2", "d1")
    member = await group.join()
    status = member.receiver.status()
    assert (status.backlog, status.lag, status.stalled) == (3, {"0": 1, "1": 2}, "")
    await member.take()
    assert member.receiver.status().lag == {"0": 0, "1": 0}


async def test_it_has_no_nack_and_no_leases(group: Group) -> None:
    """As a log; a closed sender sends nothing."""
    member = await group.join()
    with pytest.raises(UsageError):
        await member.receiver.nack([], 0)
    with pytest.raises(UsageError):
        await member.receiver.extend([], 1)
    sender = group.broker.sender("t")
    await sender.aclose()
    await sender.aclose()
    with pytest.raises(UsageError):
        await sender.send([])
