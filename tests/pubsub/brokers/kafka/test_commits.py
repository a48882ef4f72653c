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
    Tells,
    a_topic,
    ack,
    bodies,
    collect,
    handle_until,
    places,
    until,
)


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


@pytest.mark.parametrize("error", [ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE])
async def test_a_commit_comes_too_late(mock: MockCluster, error: int) -> None:
    """It harms nothing: the group is joined again, and receives and commits go on."""
    async with a_topic(mock) as topic:
        await topic.publish(b"1", b"2")
        settings: dict[str, Any] = {
            "session_timeout": "1s",
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
async def test_a_coordinator_is_not_ready(
    mock: MockCluster, usual_retries: None, error: int
) -> None:
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
