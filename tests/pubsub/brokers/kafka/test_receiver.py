"""A member of a group on Kafka: what it commits, when it lets go, and that it never just stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.consumer.subscription_state import SubscriptionState

from gizmopy.errors import NotFound, PubSubError, StartError, UsageError
from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.driver import Results, Revoke
from tests.pubsub.brokers.kafka.cluster import AnyCluster, Cluster, kafka_cluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster, mock_cluster

OFFSET_COMMIT, JOIN_GROUP, HEARTBEAT = 8, 11, 12
LOADING, NO_COORDINATOR, NOT_COORDINATOR, GROUP_FORBIDDEN = 14, 15, 16, 30
ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE = 22, 25, 27
BOUND = 8.0
"""Seconds after which what is bounded has taken far too long."""
NEVER = "1h"
DAY = 86_400.0


async def let_go(partitions: Collection[Hashable], seconds: float) -> None:
    """Let go of partitions at once, with nothing to finish."""


class Tells:
    """Let go of partitions at once, and keep which."""

    def __init__(self) -> None:
        self.revoked: list[str] = []

    async def __call__(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.revoked += map(str, partitions)


class Holds:
    """Let go of partitions only once it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, partitions: Collection[Hashable], seconds: float) -> None:
        self.begun.set()
        await self.go_on.wait()


@dataclass
class Topic:
    """A topic, what others do with it, and a group of its name with members of the driver's."""

    cluster: AnyCluster
    name: str
    producer: Any
    looker: Any

    async def publish(self, *bodies: bytes, partition: int = 0) -> None:
        """Write messages of one partition."""
        for body in bodies:
            await self.producer.send_and_wait(self.name, body, partition=partition)

    async def committed(self, partition: int = 0) -> int | None:
        """Ask the broker what the group has committed."""
        offset: int | None = await self.looker.committed(TopicPartition(self.name, partition))
        return offset

    async def until_committed(self, offset: int, partition: int = 0) -> None:
        """Wait until the group has committed so far."""
        async with asyncio.timeout(BOUND):
            while await self.committed(partition) != offset:  # noqa: ASYNC110 - Kafka does not tell
                await asyncio.sleep(0.02)

    def receiver(self, **settings: Any) -> Any:
        """Return a receiver that commits only when it lets go, unless settings say otherwise."""
        session = "6s" if self.cluster.is_real else "2s"  # the mock's rebalances last as long
        quick = {"session_timeout": session, "rebalance_timeout": "10s", "commit_interval": NEVER}
        url = f"{self.cluster.url}?{urlencode(quick | settings)}"
        return drivers.open_driver(url).receiver(self.name, self.name, ordered=True)

    @asynccontextmanager
    async def outsider(self, **settings: Any) -> AsyncIterator[Any]:
        """Have a receiver that has not joined the group yet."""
        receiver = self.receiver(**settings)
        try:
            yield receiver
        finally:
            await receiver.aclose()

    @asynccontextmanager
    async def member(self, revoke: Revoke = let_go, **settings: Any) -> AsyncIterator[Any]:
        """Have a receiver in the group."""
        async with self.outsider(**settings) as receiver:
            await receiver.connect(revoke)
            yield receiver


@asynccontextmanager
async def a_topic(cluster: AnyCluster, partitions: int = 1) -> AsyncIterator[Topic]:
    """Make a topic of a name that is new."""
    name = f"cats-{uuid4().hex[:8]}"
    servers = cluster.bootstrap
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    looker = AIOKafkaConsumer(
        bootstrap_servers=servers, group_id=name, enable_auto_commit=False, retry_backoff_ms=20
    )
    async with made(cluster, name, partitions), producer, looker:
        yield Topic(cluster, name, producer, looker)


@asynccontextmanager
async def made(cluster: AnyCluster, topic: str, partitions: int) -> AsyncIterator[None]:
    """Make a topic, as far as the cluster does."""
    if isinstance(cluster, MockCluster):
        cluster.create_topic(topic, partitions)
        yield
    else:
        async with drivers.provision(f"{cluster.url}?partitions={partitions}", topic):
            yield


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[MockCluster]:
    """Give a broker that fails on demand."""
    with mock_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def breakable(need_real_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a node that a test may kill or pause, if it has it run again in the end."""
    with kafka_cluster(tmp_path_factory.mktemp("breakable-kafka")) as cluster:
        yield cluster


@asynccontextmanager
async def an_admin(cluster: AnyCluster) -> AsyncIterator[Any]:
    """Give a client that changes topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def collect(receiver: Any, count: int, limit: int = 100) -> list[Message]:
    """Return the next messages, at least so many."""
    messages: list[Message] = []
    async with asyncio.timeout(20):
        while len(messages) < count:
            messages += await receiver.receive(limit, 1.0)
    return messages


async def ack(receiver: Any, *messages: Message) -> None:
    """Ack messages, which has to succeed."""
    assert set(await receiver.ack(messages)) == {None}


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Wait for something that is bounded."""
    async with asyncio.timeout(BOUND):
        return await awaitable


def bodies(messages: Sequence[Message]) -> list[bytes | None]:
    """Return what messages hold."""
    return [message.body for message in messages]


def places(receiver: Any) -> list[str]:
    """Return the partitions that a receiver has now."""
    return sorted(receiver.status().lag)


def share(first: Any, second: Any) -> bool:
    """Return whether two members have one partition of two each."""
    mine, yours = places(first), places(second)
    return len(mine) == 1 and sorted(mine + yours) == ["0", "1"]


async def until(condition: Callable[[], object], *receivers: Any) -> None:
    """Let receivers work until a condition is true; what they receive is dropped."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.gather(*(receiver.receive(100, 0.02) for receiver in receivers))
            await asyncio.sleep(0.005)


def refusals(results: Results) -> list[bool]:
    """Return for each item whether it was refused for good."""
    return [isinstance(each, PubSubError) and not each.transient for each in results]


# What is committed.


async def test_only_what_was_acked_is_committed(kafka: AnyCluster) -> None:
    """However much is received: the interval and the close commit up to what was acked."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3", b"4", b"5")
        async with topic.member(commit_interval="10ms") as receiver:
            messages = await collect(receiver, 5)
            await ack(receiver, messages[2])
            await topic.until_committed(3)
        assert await topic.committed() == 3


async def test_what_is_not_acked_is_not_committed(kafka: AnyCluster) -> None:
    """A member that has received and acked nothing leaves no offset, and its successor gets all."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            await collect(receiver, 2)
        assert await topic.committed() is None
        async with topic.member() as receiver:
            assert bodies(await collect(receiver, 2)) == [b"1", b"2"]


async def test_so_many_are_committed_at_once(kafka: AnyCluster) -> None:
    """After ``commit_every`` messages the interval is not waited for."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(commit_every=3) as receiver:
            messages = await collect(receiver, 3)
            await ack(receiver, messages[2])
            await topic.until_committed(3)


async def test_the_close_commits_first(kafka: AnyCluster) -> None:
    """What is acked is committed when the member leaves, whatever the interval."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            await ack(receiver, (await collect(receiver, 2))[0])
        assert await topic.committed() == 1


async def test_each_partition_has_its_own_offset(kafka: AnyCluster) -> None:
    """One commit holds each partition's own low-water mark."""
    async with a_topic(kafka, partitions=3) as topic:
        await topic.publish(b"1", b"2", partition=0)
        await topic.publish(b"1", b"2", b"3", partition=1)
        await topic.publish(b"1", partition=2)
        async with topic.member() as receiver:
            by_id = {message.id: message for message in await collect(receiver, 6)}
            await ack(receiver, by_id[f"{topic.name}-0-0"], by_id[f"{topic.name}-1-2"])
        assert [await topic.committed(number) for number in range(3)] == [1, 3, None]


async def handle_until(receiver: Any, last: bytes) -> list[bytes | None]:
    """Receive and ack until the ack of a certain body is taken; return all that was received."""
    handled: list[bytes | None] = []
    async with asyncio.timeout(20):
        while True:
            messages = await receiver.receive(100, 0.1)
            handled += bodies(messages)
            for message in messages:
                (result,) = await receiver.ack([message])
                if result is None and message.body == last:
                    return handled


@pytest.mark.parametrize("error", [ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE])
async def test_a_commit_comes_too_late(mock: MockCluster, error: int) -> None:
    """It harms nothing: the group is joined again, and receives and commits go on."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        settings: dict[str, Any] = {
            "session_timeout": "2s",
            "commit_every": 1,
            "commit_interval": "20ms",
        }
        told = Tells()
        async with topic.member(told, **settings) as receiver:
            first, _ = await collect(receiver, 2)
            mock.fail(OFFSET_COMMIT, error)
            await ack(receiver, first)
            await until(lambda: told.revoked and places(receiver), receiver)
            await topic.publish(b"3")
            await handle_until(receiver, b"3")
            await topic.until_committed(3)


@pytest.mark.parametrize("error", [LOADING, NO_COORDINATOR, NOT_COORDINATOR])
async def test_a_coordinator_is_not_ready(mock: MockCluster, error: int) -> None:
    """A commit that it refuses for longer than a commit may take is made again, in silence."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(commit_every=1, commit_interval="20ms") as receiver:
            first, _ = await collect(receiver, 2)
            mock.fail(OFFSET_COMMIT, *[error] * 3)
            await ack(receiver, first)
            await topic.until_committed(1)
            assert await receiver.receive(1, 0.0) == []


async def test_a_commit_is_forbidden(mock: MockCluster) -> None:
    """The next receive says so, once, as something that may pass; and the commit is made again."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1")
        async with topic.member(commit_every=1, commit_interval="20ms") as receiver:
            (first,) = await collect(receiver, 1)
            mock.fail(OFFSET_COMMIT, GROUP_FORBIDDEN)
            await ack(receiver, first)
            with pytest.raises(PubSubError, match=f"{topic.name}.*GroupAuthorization") as caught:
                await collect(receiver, 1)
            assert caught.value.transient
            await topic.until_committed(1)
            await topic.publish(b"2")
            assert bodies(await collect(receiver, 1)) == [b"2"]


# How partitions come and go.


async def test_who_lets_go_finishes_and_commits_first(real_kafka: Cluster) -> None:
    """Another member gets a partition once its owner has drained, from where that committed."""
    async with a_topic(real_kafka, partitions=2) as topic, AsyncExitStack() as stack:
        for partition in range(2):
            await topic.publish(b"1", b"2", partition=partition)
        holds = Holds()
        owner = await stack.enter_async_context(topic.member(holds))
        messages = await collect(owner, 4)
        joining = asyncio.create_task(stack.enter_async_context(topic.member()))
        await soon(holds.begun.wait())
        await ack(owner, *(message for message in messages if message.body == b"1"))
        assert not joining.done()
        holds.go_on.set()
        newcomer = await joining
        assert bodies(await collect(newcomer, 1)) == [b"2"]
        assert bodies(await collect(owner, 1)) == [b"2"]


async def test_what_was_received_before_a_rebalance_is_acked_in_vain(kafka: AnyCluster) -> None:
    """It belongs to an assignment that is over, also where the partition stays: it comes again."""
    async with a_topic(kafka, partitions=2) as topic:
        for partition in range(2):
            await topic.publish(b"1", partition=partition)
        told = Tells()
        async with topic.member(told) as owner:
            messages = await collect(owner, 2)
            async with topic.member() as newcomer:
                assert bodies(await collect(newcomer, 1)) == [b"1"]
                assert sorted(told.revoked) == ["0", "1"]
                assert refusals(await owner.ack(messages)) == [True, True]
                assert bodies(await collect(owner, 1)) == [b"1"]
        assert [await topic.committed(partition) for partition in range(2)] == [None, None]


async def test_a_receive_ends_after_its_wait_amid_a_rebalance(kafka: AnyCluster) -> None:
    """It does not wait for what others, or the engine, take to let go."""
    async with a_topic(kafka) as topic, AsyncExitStack() as stack:
        await topic.publish(b"1")
        holds = Holds()
        owner = await stack.enter_async_context(topic.member(holds))
        await collect(owner, 1)
        joining = asyncio.create_task(stack.enter_async_context(topic.member()))
        await soon(holds.begun.wait())
        assert await soon(owner.receive(10, 0.05)) == []
        holds.go_on.set()
        await joining


async def test_a_member_that_leaves_is_not_waited_for(kafka: AnyCluster) -> None:
    """Its close tells the group: another member has its partitions long before its session ends."""
    async with a_topic(kafka, partitions=2) as topic:
        async with topic.member() as other:
            async with topic.member(session_timeout="60s", rebalance_timeout="60s") as leaver:
                await until(lambda: share(other, leaver), other, leaver)
            await until(lambda: places(other) == ["0", "1"], other)


async def test_a_close_amid_a_rebalance_commits_and_leaves(real_kafka: Cluster) -> None:
    """It waits neither for the engine to let go nor for its session: it commits and leaves."""
    async with a_topic(real_kafka) as topic, AsyncExitStack() as stack:
        await topic.publish(b"1", b"2")
        holds = Holds()
        async with topic.member(holds, session_timeout="25s", rebalance_timeout="25s") as owner:
            first, _ = await collect(owner, 2)
            joining = asyncio.create_task(stack.enter_async_context(topic.member()))
            await soon(holds.begun.wait())
            await ack(owner, first)
            await soon(owner.aclose())
            assert await topic.committed() == 1
        assert bodies(await collect(await joining, 1)) == [b"2"]


async def test_a_static_member_restarts_unnoticed(real_kafka: Cluster) -> None:
    """Within its session timeout it gets its partition again, and no other member lets go."""
    async with a_topic(real_kafka, partitions=2) as topic:
        told = Tells()
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(topic.member(told, group_instance_id="a"))
            async with topic.member(group_instance_id="b") as member:
                await until(lambda: share(other, member), other, member)
                (before,) = places(member)
                for partition in range(2):
                    await topic.publish(b"1", b"2", partition=partition)
                await ack(member, (await collect(member, 2))[0])
                await collect(other, 2)
            async with topic.member(group_instance_id="b") as member:
                assert bodies(await collect(member, 1)) == [b"2"]
                assert places(member) == [before]
                assert told.revoked == []


async def test_a_member_may_be_idle_for_ever(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its handlers take, it stays in the group, and joins it again with others."""
    monkeypatch.setattr(SubscriptionState, "fetcher_idle_time", DAY)
    async with a_topic(kafka, partitions=2) as topic:
        async with topic.member(session_timeout="3s") as idle, topic.member() as other:
            await until(lambda: share(idle, other), idle, other)


def test_one_group_for_two_subscriptions_to_a_topic_is_refused() -> None:
    """Each would get a part of the messages."""
    driver = drivers.open_driver("kafka://127.0.0.1:9?group=friends")
    driver.receiver("cats", "a", ordered=True)
    driver.receiver("dogs", "b", ordered=True)
    with pytest.raises(StartError, match=r"'a' and 'b'.*leave group out"):
        driver.receiver("cats", "b", ordered=True)


# Where there is room.


async def test_a_partition_without_room_holds_up_no_other(kafka: AnyCluster) -> None:
    """It is received no further than it may be ahead; the others go on, and it, once acked."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(*[b"%d" % number for number in range(6)], partition=0)
        await topic.publish(*[b"%d" % number for number in range(20)], partition=1)
        async with topic.member(partition_ahead=2) as receiver:
            stuck: list[Message] = []
            free: list[Message] = []
            while len(free) < 20:
                for message in await collect(receiver, 1, limit=1):
                    (stuck if str(message.partition) == "0" else free).append(message)
                if free:
                    await ack(receiver, free[-1])
            while len(stuck) < 2:
                stuck += await collect(receiver, 1, limit=1)
            assert await receiver.receive(1, 0.1) == []
            await ack(receiver, stuck[0])
            stuck += await collect(receiver, 1, limit=1)
            assert bodies(stuck) == [b"0", b"1", b"2"]


async def test_a_receive_without_room_anywhere_waits_for_an_ack(kafka: AnyCluster) -> None:
    """It gets nothing, returns nothing after its wait, and goes on as soon as there is room."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(partition_ahead=1) as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            assert await soon(receiver.receive(1, 0.05)) == []
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0)
            await ack(receiver, first)
            assert bodies(await soon(waiting)) == [b"2"]


async def test_nothing_can_be_given_back(kafka: AnyCluster) -> None:
    """There is no seeking back: who would nack is refused, and what follows goes on in order."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            (first,) = await collect(receiver, 1, limit=1)
            with pytest.raises(UsageError, match="nothing can be given back"):
                await receiver.nack([first], 0.0)
            assert bodies(await collect(receiver, 1)) == [b"2"]


async def test_no_fetch_is_ever_cancelled(kafka: AnyCluster) -> None:
    """However a receive ends, aiokafka does not believe that one is pending for ever."""
    async with a_topic(kafka) as topic:
        async with topic.member() as receiver:
            subscription = receiver._consumer._subscription
            assert await receiver.receive(1, 0.05) == []
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0.05)
            await topic.publish(b"1")
            await soon(waiting)
            waiting = asyncio.create_task(receiver.receive(1, 2 * BOUND))
            await asyncio.sleep(0.05)
            await receiver.aclose()
            assert await soon(waiting) == []
            assert subscription._fetch_count == 0


# What a message is, and where a group begins.


async def test_what_others_have_written_is_taken_as_it_is(kafka: AnyCluster) -> None:
    """Bytes that are no text, keys and headers among them, and nulls are no reason to fail."""
    async with a_topic(kafka) as topic:
        await topic.producer.send_and_wait(
            topic.name,
            b"\xff\x00",
            key=b"\xfe\x00",
            headers=[("h", b"\xfd"), ("none", None), ("twice", b"1"), ("twice", b"2")],
            timestamp_ms=1_000,
        )
        await topic.producer.send_and_wait(topic.name, None, key=b"")
        async with topic.member() as receiver:
            first, second = await collect(receiver, 2)
        assert first.body == b"\xff\x00"
        assert first.key is not None
        assert first.key.encode("utf-8", "surrogateescape") == b"\xfe\x00"
        attributes = {"h": "\udcfd", "none": "", "twice": "2"}
        assert first.attributes == attributes
        assert first.published_at.timestamp() == 1
        assert first.id == f"{topic.name}-0-0"
        assert (second.body, second.key, second.attributes) == (None, "", {})


async def test_a_group_begins_with_the_earliest(kafka: AnyCluster) -> None:
    """Unless told otherwise nothing is lost to a group that is new."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member() as receiver:
            assert bodies(await collect(receiver, 1)) == [b"old"]


async def test_a_group_can_begin_with_the_latest(kafka: AnyCluster) -> None:
    """It then gets nothing that is older than itself."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member(auto_offset_reset="latest") as receiver:
            assert (await first_new(topic, receiver)).body == b"new"


async def first_new(topic: Topic, receiver: Any) -> Message:
    """Publish until something is received: it asks for its first offset after it has joined."""
    got: list[Message] = []
    async with asyncio.timeout(BOUND):
        while not got:
            await topic.publish(b"new")
            got += await receiver.receive(100, 0.05)
    return got[0]


async def test_a_group_that_began_with_the_latest_has_begun(kafka: AnyCluster) -> None:
    """What is published while it is away is not lost, though it has never acked anything."""
    settings: dict[str, Any] = {"auto_offset_reset": "latest", "commit_interval": "1s"}
    async with a_topic(kafka) as topic:
        await topic.publish(b"old")
        async with topic.member(**settings):
            await topic.until_committed(1)
        await topic.publish(b"new")
        async with topic.member(**settings) as receiver:
            assert bodies(await collect(receiver, 1)) == [b"new"]


async def test_the_first_of_the_latest_comes_again_unless_acked(mock: MockCluster) -> None:
    """A group that began with the latest has begun before its first message."""
    async with a_topic(mock) as topic:
        await topic.publish(b"old")
        async with topic.member(auto_offset_reset="latest") as receiver:
            first = await first_new(topic, receiver)
        async with topic.member(auto_offset_reset="latest") as receiver:
            again = await receiver.receive(1, 1.0)
            assert [message.id for message in again] == [first.id]


async def test_a_group_may_have_to_have_begun(kafka: AnyCluster) -> None:
    """With none, a group without an offset is an error that says what to do; with one, it isn't."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(auto_offset_reset="none") as receiver:
            with pytest.raises(
                PubSubError, match=f"{topic.name}.*say earliest or latest"
            ) as caught:
                await collect(receiver, 1)
            assert not caught.value.transient
        async with topic.member() as receiver:
            await ack(receiver, (await collect(receiver, 2))[0])
        async with topic.member(auto_offset_reset="none") as receiver:
            assert bodies(await collect(receiver, 1)) == [b"2"]


async def test_the_lag_is_known_without_asking(kafka: AnyCluster) -> None:
    """After a fetch the status tells for each partition how much is not received yet."""
    async with a_topic(kafka, partitions=2) as topic:
        await topic.publish(*[b"x"] * 5, partition=1)
        async with topic.member() as receiver:
            await collect(receiver, 2, limit=2)
            status = receiver.status()
            assert (status.backlog, status.lag, status.stalled) == (3, {"0": 0, "1": 3}, "")


async def test_the_lag_of_a_partition_without_room_is_known(
    kafka: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes to a partition that is not fetched from is counted before long."""
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._LOOK_AGAIN", 0.02)
    monkeypatch.setattr("gizmopy.pubsub.brokers.kafka.receiver._LOOK_SECONDS", 0.02)
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(partition_ahead=1) as receiver:
            await collect(receiver, 1, limit=1)
            await topic.publish(*[b"x"] * 9)
            await until(lambda: receiver.status().lag == {"0": 10}, receiver)


@pytest.mark.parametrize("end", ["receiver", "sender"])
async def test_an_unknown_topic_is_refused_and_not_made(kafka: AnyCluster, end: str) -> None:
    """Connecting to it says within seconds that it does not exist; also later it does not."""
    driver = drivers.open_driver(kafka.url)
    unknown = f"unknown-{uuid4().hex[:8]}"
    for _ in range(2):
        receiver = driver.receiver(unknown, "friends", ordered=True)
        sender = driver.sender(unknown)
        with pytest.raises(NotFound, match=f"topic '{unknown}' does not exist on kafka://"):
            await soon(receiver.connect(let_go) if end == "receiver" else sender.connect())
        await receiver.aclose()
        await sender.aclose()


# What goes wrong.


async def test_who_was_thrown_out_commits_no_more(real_kafka: Cluster) -> None:
    """A member that was silent for its session's time leaves to others what it had acked."""
    async with a_topic(real_kafka) as topic:
        await topic.publish(b"1")
        told = Tells()
        async with topic.member(told, session_timeout="1s") as receiver:
            await ack(receiver, *await collect(receiver, 1))
            time.sleep(1.5)  # noqa: ASYNC251 - a loop that is blocked is what it is about
            await until(lambda: told.revoked, receiver)
            assert await topic.committed() is None
            assert bodies(await collect(receiver, 1)) == [b"1"]


async def test_a_group_that_forbids_to_be_joined_is_heard_of(mock: MockCluster) -> None:
    """Also where nothing was waited for at that time, receiving says so, and for good."""
    async with a_topic(mock) as topic, topic.member(session_timeout="500ms") as receiver:
        mock.fail(JOIN_GROUP, GROUP_FORBIDDEN)
        mock.fail(HEARTBEAT, REBALANCE)
        await until(lambda: receiver._consumer._coordinator._pending_exception)
        with pytest.raises(PubSubError, match="GroupAuthorization") as caught:
            await collect(receiver, 1)
        assert not caught.value.transient


@pytest.mark.parametrize("instance", ["", "a"])
async def test_partitions_that_are_added_are_received(real_kafka: Cluster, instance: str) -> None:
    """From their first message, by static members that have restarted, too."""
    settings: dict[str, Any] = {"group_instance_id": instance, "metadata_max_age": "200ms"}
    async with a_topic(real_kafka) as topic:
        async with topic.member(**settings):
            pass
        async with topic.member(**settings) as receiver:
            async with an_admin(real_kafka) as admin:
                await admin.create_partitions({topic.name: NewPartitions(total_count=2)})
            while len(await topic.producer.partitions_for(topic.name)) < 2:
                await topic.producer.client.force_metadata_update()
            await topic.publish(b"1", partition=1)
            (message,) = await collect(receiver, 1)
            assert str(message.partition) == "1"


async def test_a_topic_that_is_made_anew_begins_anew(real_kafka: Cluster) -> None:
    """What was received of the old one is acked in vain; the new one's offsets are committed."""
    async with a_topic(real_kafka) as topic, an_admin(real_kafka) as admin:
        await topic.publish(b"1", b"2", b"3")
        settings: dict[str, Any] = {"metadata_max_age": "200ms", "commit_interval": "10ms"}
        async with topic.member(**settings) as receiver:
            old = await collect(receiver, 3)
            await admin.delete_topics([topic.name])
            await admin.create_topics([NewTopic(topic.name, 1, 1)])
            await topic.publish(b"new")
            (new,) = await collect(receiver, 1)
            assert new.body == b"new"
            assert refusals(await receiver.ack([old[-1]])) == [True]
            await ack(receiver, new)
            await topic.until_committed(1)


@pytest.mark.parametrize("task", ["_coordinator._coordination_task", "_fetcher._fetch_task"])
async def test_a_client_that_dies_silently_is_seen(kafka: AnyCluster, task: str) -> None:
    """The status says that it is stalled where a task of aiokafka has ended by itself."""
    async with a_topic(kafka) as topic, topic.member() as receiver:
        assert receiver.status().stalled == ""
        dying = attrgetter(task)(receiver._consumer)
        dying.cancel()
        await asyncio.wait((dying,))
        assert receiver.status().stalled == "the Kafka client has ended by itself"


async def test_a_rejoin_that_does_not_end_is_seen(mock: MockCluster) -> None:
    """The status says so after two rebalances and a session; once joined again all is well."""
    async with a_topic(mock) as topic:
        settings: dict[str, Any] = {"session_timeout": "500ms", "rebalance_timeout": "500ms"}
        async with topic.member(**settings) as receiver:
            assert receiver.status().stalled == ""
            mock.fail(JOIN_GROUP, *[NO_COORDINATOR] * 6)  # it asks twice a second
            mock.fail(HEARTBEAT, REBALANCE)
            await until(lambda: receiver.status().stalled, receiver)
            assert f"group '{topic.name}' has not been joined again" in receiver.status().stalled
            await topic.publish(b"1")
            await collect(receiver, 1)
            assert receiver.status().stalled == ""
            receiver._consumer._coordinator.request_rejoin()
            assert receiver.status().stalled == ""  # this one has only begun


async def test_a_broker_that_is_away_is_no_stall(mock: MockCluster) -> None:
    """Another client would fare no better; the member goes on once the broker is back."""
    async with a_topic(mock) as topic:
        settings: dict[str, Any] = {"session_timeout": "500ms", "rebalance_timeout": "500ms"}
        async with topic.member(**settings) as receiver:
            await until(lambda: places(receiver), receiver)
            mock.kill(1)
            assert await receiver.receive(1, 1.0) == []
            mock.start(1)
            await topic.publish(b"1")
            assert bodies(await collect(receiver, 1)) == [b"1"]


@pytest.mark.parametrize("outage", ["dead", "silent"])
async def test_closes_are_bounded_without_a_broker(breakable: Cluster, outage: str) -> None:
    """Who has something to commit, lets go or joins ends within seconds, whatever the broker."""
    stop = breakable.kill if outage == "dead" else breakable.pause
    back = breakable.start if outage == "dead" else breakable.resume
    async with a_topic(breakable) as topic, a_topic(breakable) as other:
        await topic.publish(b"1")
        await other.publish(b"1")
        holds = Holds()
        async with topic.member(holds) as amid, other.member() as idle, topic.outsider() as new:
            for receiver in (amid, idle):
                await ack(receiver, *await collect(receiver, 1))
            joining = asyncio.create_task(new.connect(let_go))
            await soon(holds.begun.wait())
            stop(1)
            joining.cancel()
            try:
                await soon(asyncio.gather(*(each.aclose() for each in (amid, idle, new))))
            finally:
                await asyncio.to_thread(back, 1)
            await asyncio.wait((joining,))
