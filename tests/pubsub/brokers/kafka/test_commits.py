"""Which offsets a group member commits, and when."""

from __future__ import annotations

from typing import Any

import pytest

from gizmopy.errors import PubSubError
from tests.pubsub.brokers.kafka.cluster import AnyCluster
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster
from tests.pubsub.brokers.kafka.support import (
    GROUP_FORBIDDEN,
    ILLEGAL_GENERATION,
    LOADING,
    NO_COORDINATOR,
    NOT_COORDINATOR,
    OFFSET_COMMIT,
    REBALANCE,
    UNKNOWN_MEMBER,
    Revoked,
    a_topic,
    ack,
    assigned,
    bodies,
    collect,
    handle_until,
    until,
)


async def test_only_acked_messages_are_committed(kafka: AnyCluster) -> None:
    """The interval and the close commit up to the last ack, however much was received."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3", b"4", b"5")
        async with topic.member(commit_interval="10ms") as receiver:
            messages = await collect(receiver, 5)
            await ack(receiver, messages[2])
            await topic.until_committed(3)
        assert await topic.committed() == 3


async def test_unacked_messages_are_not_committed(kafka: AnyCluster) -> None:
    """A member that acks nothing commits no offset, and its successor gets all messages."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            await collect(receiver, 2)
        assert await topic.committed() is None
        async with topic.member() as receiver:
            assert bodies(await collect(receiver, 2)) == [b"1", b"2"]


async def test_commit_every_messages_are_committed_at_once(kafka: AnyCluster) -> None:
    """After ``commit_every`` messages the member does not wait for the interval."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2", b"3")
        async with topic.member(commit_every=3) as receiver:
            messages = await collect(receiver, 3)
            await ack(receiver, messages[2])
            await topic.until_committed(3)


async def test_the_close_commits_first(kafka: AnyCluster) -> None:
    """A member that leaves commits its acks first, whatever the interval."""
    async with a_topic(kafka) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member() as receiver:
            await ack(receiver, (await collect(receiver, 2))[0])
        assert await topic.committed() == 1


async def test_each_partition_has_its_own_offset(kafka: AnyCluster) -> None:
    """One commit blocked the low-water mark of each partition."""
    async with a_topic(kafka, partitions=3) as topic:
        await topic.publish(b"1", b"2", partition=0)
        await topic.publish(b"1", b"2", b"3", partition=1)
        await topic.publish(b"1", partition=2)
        async with topic.member() as receiver:
            by_id = {message.id: message for message in await collect(receiver, 6)}
            await ack(receiver, by_id[f"{topic.name}-0-0"], by_id[f"{topic.name}-1-2"])
        assert [await topic.committed(number) for number in range(3)] == [1, 3, None]


@pytest.mark.parametrize("error", [ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE])
async def test_a_commit_comes_too_late(mock: MockCluster, error: int) -> None:
    """A refused commit does no harm: the member joins again, receives and commits."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        settings: dict[str, Any] = {
            "session_timeout": "1s",
            "commit_every": 1,
            "commit_interval": "20ms",
        }
        revoked = Revoked()
        async with topic.member(revoked, **settings) as receiver:
            first, _ = await collect(receiver, 2)
            mock.fail(OFFSET_COMMIT, error)
            await ack(receiver, first)
            await until(lambda: revoked.partitions and assigned(receiver), receiver)
            await topic.publish(b"3")
            await handle_until(receiver, b"3")
            await topic.until_committed(3)


@pytest.mark.parametrize("error", [LOADING, NO_COORDINATOR, NOT_COORDINATOR])
async def test_a_coordinator_is_not_ready(
    mock: MockCluster, usual_retries: None, error: int
) -> None:
    """A commit that the coordinator refuses for longer than its time-out is repeated, without an
    error.
    """
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        async with topic.member(commit_every=1, commit_interval="20ms") as receiver:
            first, _ = await collect(receiver, 2)
            mock.fail(OFFSET_COMMIT, *[error] * 3)
            await ack(receiver, first)
            await topic.until_committed(1)
            assert await receiver.receive(1, 0.0) == []


async def test_a_commit_is_forbidden(mock: MockCluster) -> None:
    """The next receive raises a transient error, once, and the commit is repeated."""
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
