"""What aiokafka's clients need done to them: patience with others, and an end in bounded time.

Their own ``stop`` may wait for ever with a broker away (aiokafka#1101), or amid a rebalance, and be
cancelled by what it cancels. What is used beyond their documented methods, here: the parts that a
consumer and a producer are made of, these parts' tasks, and a client's connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import ConnectionGroup
from aiokafka.errors import ConsumerStoppedError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

PATIENCE_MS = 10_000
"""How long a broker may take to answer a request; a partition's next leader is sooner found."""
CLOSE_SECONDS = 0.3
"""What each other step of a close may take: leaving the group, the end of what is cancelled."""


def wait_for_others(consumer: AIOKafkaConsumer, seconds: float) -> None:
    """Have requests that a group's other members hold up wait ``seconds``, and as usual then.

    aiokafka has one time-out for all: one that is long enough for that leaves a broker that hangs
    unnoticed for longer than the session.
    """
    client, send = consumer._client, consumer._client.send

    async def patient(node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        held_up = isinstance(request, (JoinGroupRequest, SyncGroupRequest))
        if not held_up or not await client.ready(node, group=group):
            return await send(node, request, group=group)
        connection = client._conns[node, group]
        usual, connection._request_timeout = connection._request_timeout, seconds
        connection._request_timeout += usual
        try:
            return await send(node, request, group=group)
        finally:
            connection._request_timeout = usual

    client.send = patient


async def stop_consumer(consumer: AIOKafkaConsumer, committing: asyncio.Task[Any] | None) -> None:
    """Leave the group and stop, as far as that can be done in time; end a commit with it."""
    consumer._closed = True
    if (fetcher := consumer._fetcher) is not None:
        await cancel((fetcher._fetch_task,))  # it waits for the same as what is aborted now
    consumer._subscription.abort_waiters(ConsumerStoppedError())
    if consumer._coordinator is not None:
        await _leave(consumer, committing)
    if fetcher is not None:
        await ended(fetcher.close(), CLOSE_SECONDS)
        await cancel(list(fetcher._pending_tasks))
    await ended(consumer._client.close(), CLOSE_SECONDS)
    if committing is not None:
        await cancel((committing,))


async def _leave(consumer: AIOKafkaConsumer, committing: asyncio.Task[Any] | None) -> None:
    """Leave the group, amid a rebalance too: the others would wait for the session to end.

    A broker answers in order, so behind a join that is not answered yet nothing is heard.
    """
    coordinator, connections = consumer._coordinator, consumer._client._conns
    node = coordinator.coordinator_id
    tasks = (coordinator._coordination_task, coordinator._heartbeat_task)
    await cancel([t for t in (*tasks, coordinator._commit_refresh_task) if t is not None])
    connection = connections.get((node, ConnectionGroup.COORDINATION))
    if connection is not None and connection._requests:
        del connections[node, ConnectionGroup.COORDINATION]
        connection.close()
        await asyncio.sleep(0)  # who waits there marks the coordinator as dead
        if committing is not None:
            await cancel((committing,))
        coordinator.coordinator_id = node
    if coordinator.generation <= 0 and coordinator.member_id:
        coordinator.generation = 1  # it does not leave before its first one
    await ended(coordinator.close(), 2 * CLOSE_SECONDS)  # it may have to log in again


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Flush and stop, as far as that can be done in time."""
    producer._closed = True
    await ended(producer.flush(), CLOSE_SECONDS)
    sending = producer._sender.sender_task
    await ended(producer._sender.close(), CLOSE_SECONDS)
    await ended(producer.client.close(), CLOSE_SECONDS)
    await cancel([sending] if sending is not None else [])


async def ended(awaitable: Awaitable[object], seconds: float) -> bool:
    """Wait for something to end, whatever of; return False where it does not, and is cancelled.

    aiokafka's own ends may be cancelled by themselves, or fail; there is nothing to do about it.
    """
    ending = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait((ending,), timeout=seconds)
    finally:
        await cancel((ending,))
    return bool(done)


async def cancel(futures: Collection[asyncio.Future[Any]]) -> None:
    """Cancel, and wait a little until that is done; what they raise is of no interest."""
    for future in futures:
        future.cancel()
    if futures:
        await asyncio.wait(futures, timeout=CLOSE_SECONDS)
    for future in futures:
        if future.done() and not future.cancelled():
            future.exception()
