"""Every private part of aiokafka that the driver uses, behind typed functions.

No other module of gizmopy uses one. A test checks that, and that each name below exists in the
installed version. aiokafka is pinned to one minor version because the next may change any of them.
Some have no underscore; they are private because the documentation does not have them.

- ``AIOKafkaConsumer``: ``_client``, ``_closed``, ``_coordinator``, ``_fetcher``, ``_subscription``
- ``AIOKafkaProducer``: ``_closed``, ``_sender``, ``client``
- ``Sender``: ``close``, ``sender_task``
- ``AIOKafkaClient``: ``_conns``, ``_request_timeout_ms``, ``_sync_task``, ``close``,
  ``get_random_node``, ``ready``, ``send``
- ``AIOKafkaConnection``: ``_request_timeout``, ``_requests``, ``close``, ``send``
- ``GroupCoordinator``: ``_commit_refresh_task``, ``_coordination_task``, ``_heartbeat_task``,
  ``_rejoin_needed_fut``, ``check_errors``, ``close``, ``coordinator_id``, ``generation``,
  ``member_id``, ``request_rejoin``
- ``SubscriptionState``: ``abort_waiters``, ``reassignment_in_progress``, ``subscription``
- ``Subscription``: ``assignment``
- ``Assignment``: ``state_value``, ``tps``
- ``TopicPartitionState``: ``has_valid_position``, ``highwater``, ``position``
- ``Fetcher``: ``_create_fetch_waiter``, ``_fetch_task``, ``_pending_tasks``, ``_records``,
  ``close``
- ``FetchResult``: ``_partition_records``
- ``PartitionRecords``: ``_aborted_transactions``, ``_check_crcs``, ``_isolation_level``,
  ``_records``, ``next_fetch_offset``
- ``_DefaultRecordBatchPy``: ``_buffer``, ``_maybe_uncompress``, ``_read_msg``
- ``_MemoryRecordsPy``: ``MAGIC_OFFSET``, ``_next_slice``, ``has_next``, ``next_batch``
- ``aiokafka.client``: ``ConnectionGroup``
- ``aiokafka.conn``: ``create_conn``
- ``aiokafka.consumer.fetcher``: ``FetchResult``, ``PartitionRecords``
- ``aiokafka.protocol.api``: ``RequestStruct``, ``Response``
- ``aiokafka.protocol.group``: ``JoinGroupRequest``, ``SyncGroupRequest``
- ``aiokafka.protocol.metadata``: ``MetadataRequest``
- ``MetadataRequest``: ``API_KEY``, ``_CLASSES``, ``build``
- ``aiokafka.protocol.types``: ``AbstractType``, ``Boolean``, ``CompactArray``, ``CompactString``,
  ``Int16``, ``Int32``, ``Schema``, ``TaggedFields``
- ``aiokafka.record.default_records``: ``_DefaultRecordBatchPy``
- ``aiokafka.record.memory_records``: ``_MemoryRecordsPy``
- ``aiokafka.record.util``: ``decode_varint_py``
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint_py

from gizmopy._aio import cancel_and_wait

REQUEST_TIMEOUT_MS = 10_000
"""How long a broker may take to answer a request. A partition's next leader is found sooner."""
CLOSE_SECONDS = 0.3
"""How long one step of a close may take; leaving the group, twice that."""
_V2 = 2
"""The first batch format that has headers."""


# The membership in a group.


def is_joining(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the consumer has connected, so that it now joins its group."""
    return consumer._coordinator is not None


def member_is_known(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the group has this member, as far as the member knows.

    An evicted member must not commit. aiokafka would send its commit without a generation, and
    Kafka accepts that as soon as the group is empty.
    """
    coordinator = consumer._coordinator
    return coordinator is not None and coordinator.generation >= 0


def is_rebalancing(consumer: AIOKafkaConsumer) -> bool:
    """Return whether a rebalance is in progress. ``getmany`` then waits for its end, unbounded."""
    return bool(consumer._subscription.reassignment_in_progress)


def must_rejoin(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the consumer has to join its group again, and has not done so yet."""
    return bool(consumer._coordinator._rejoin_needed_fut.done())


def rejoin(consumer: AIOKafkaConsumer) -> None:
    """Start a rebalance of the group."""
    consumer._coordinator.request_rejoin()


def raise_group_error(consumer: AIOKafkaConsumer) -> None:
    """Raise the coordinator's error, once: aiokafka's tasks wait until it is raised."""
    consumer._coordinator.check_errors()


def coordinator_is_unreachable(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the group's coordinator cannot be reached at present."""
    coordinator = consumer._coordinator
    return coordinator is not None and coordinator.coordinator_id is None


def is_started(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the consumer has its background tasks."""
    return consumer._fetcher is not None


def client_is_alive(consumer: AIOKafkaConsumer) -> bool:
    """Return whether all background tasks run. aiokafka does not report one that ends (#1154)."""
    tasks = (
        consumer._coordinator._coordination_task,
        consumer._fetcher._fetch_task,
        consumer._client._sync_task,
    )
    return all(task is not None and not task.done() for task in tasks)


# Fetching.


def fetch_ready(consumer: AIOKafkaConsumer) -> asyncio.Future[Any]:
    """Return a future that is done when ``getmany`` has something to return or to raise."""
    return cast(asyncio.Future[Any], consumer._fetcher._create_fetch_waiter())


def fetched_partitions(consumer: AIOKafkaConsumer) -> Collection[TopicPartition]:
    """Return a live view of the partitions whose records are fetched and not returned yet."""
    return cast(Collection[TopicPartition], consumer._fetcher._records.keys())


def positions(consumer: AIOKafkaConsumer) -> Iterator[tuple[TopicPartition, int | None, int]]:
    """Yield each assigned partition, its next offset (None: not known yet) and its end offset.

    The end is that of the last fetch, 0 before the first.
    """
    subscription = consumer._subscription.subscription
    if subscription is not None and (assignment := subscription.assignment) is not None:
        for tp in assignment.tps:
            state = assignment.state_value(tp)
            yield tp, state.position if state.has_valid_position else None, state.highwater or 0


async def committed_offsets(
    consumer: AIOKafkaConsumer, tps: Collection[TopicPartition]
) -> Mapping[TopicPartition, int | None]:
    """Return what the group has committed for each partition, with one request."""
    found = await consumer._coordinator.fetch_committed_offsets(tps)
    return {tp: found[tp].offset if tp in found and found[tp].offset >= 0 else None for tp in tps}


# Time-outs.


def extend_group_timeouts(consumer: AIOKafkaConsumer, seconds: float) -> None:
    """Let requests that wait for the group's other members take ``seconds`` more than others.

    aiokafka has one time-out for all requests. A value that is long enough for a rebalance would
    leave a broker that hangs unnoticed for longer than the session.
    """
    client, send = consumer._client, consumer._client.send

    async def send_patiently(
        node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        waits_for_members = isinstance(request, (JoinGroupRequest, SyncGroupRequest))
        if not waits_for_members or not await client.ready(node, group=group):
            return await send(node, request, group=group)
        connection = client._conns[node, group]
        usual = connection._request_timeout
        connection._request_timeout = usual + seconds
        try:
            return await send(node, request, group=group)
        finally:
            connection._request_timeout = usual

    client.send = send_patiently


def set_request_timeout(producer: AIOKafkaProducer, milliseconds: int) -> None:
    """Set how long a broker may take to answer, for new connections and for those that exist.

    ``request_timeout_ms`` of the constructor is also how long a batch may live; it stays.
    """
    producer.client._request_timeout_ms = milliseconds
    for connection in producer.client._conns.values():
        connection._request_timeout = milliseconds / 1000


# Closing. aiokafka's own ``stop`` may wait for ever if a broker is away (aiokafka#1101) or during a
# rebalance, and may be cancelled by a task that it cancels itself.


async def stop(consumer: AIOKafkaConsumer, committing: asyncio.Task[Any] | None) -> None:
    """Leave the group and stop the consumer in bounded time; cancel a commit in progress."""
    consumer._closed = True
    if (fetcher := consumer._fetcher) is not None:
        # First: the task waits for the futures that are aborted next, and would raise their error.
        await cancel((fetcher._fetch_task,))
    consumer._subscription.abort_waiters(ConsumerStoppedError())
    if consumer._coordinator is not None:
        await _leave_group(consumer, committing)
    if fetcher is not None:
        await finish(fetcher.close(), CLOSE_SECONDS)
        await cancel(list(fetcher._pending_tasks))
    await finish(consumer._client.close(), CLOSE_SECONDS)
    if committing is not None:
        await cancel((committing,))


async def _leave_group(consumer: AIOKafkaConsumer, committing: asyncio.Task[Any] | None) -> None:
    """Leave the group, also during a rebalance; otherwise it waits until the session expires."""
    coordinator, connections = consumer._coordinator, consumer._client._conns
    node = coordinator.coordinator_id
    tasks = (
        coordinator._coordination_task,
        coordinator._heartbeat_task,
        coordinator._commit_refresh_task,
    )
    await cancel([task for task in tasks if task is not None])
    connection = connections.get((node, ConnectionGroup.COORDINATION))
    if connection is not None and connection._requests:
        # A broker answers in order: the request to leave would wait behind a join request that is
        # answered only when all members have joined. So it gets a new connection. Tasks that wait
        # for the old one mark the coordinator as dead, so its id has to be set again.
        del connections[node, ConnectionGroup.COORDINATION]
        connection.close()
        await asyncio.sleep(0)
        if committing is not None:
            await cancel((committing,))
        coordinator.coordinator_id = node
    if coordinator.generation <= 0 and coordinator.member_id:
        # aiokafka sends no request to leave before its first generation, though the broker has
        # given it a member id and the group waits for it.
        coordinator.generation = 1
    await finish(coordinator.close(), 2 * CLOSE_SECONDS)  # it may have to log in again


def producer_is_alive(producer: AIOKafkaProducer) -> bool:
    """Return whether the task that sends runs. When it ends, all sends fail from then on."""
    sending = producer._sender.sender_task
    return not producer._closed and sending is not None and not sending.done()


async def stop_producer(producer: AIOKafkaProducer) -> None:
    """Flush and stop the producer in bounded time."""
    producer._closed = True
    await finish(producer.flush(), CLOSE_SECONDS)
    sending = producer._sender.sender_task
    await finish(producer._sender.close(), CLOSE_SECONDS)
    await finish(producer.client.close(), CLOSE_SECONDS)
    await cancel([sending] if sending is not None else [])


async def finish(awaitable: Awaitable[object], seconds: float) -> bool:
    """Await ``awaitable`` and ignore its errors; cancel it after ``seconds`` and return False.

    aiokafka's close methods may fail, or be cancelled by themselves. The caller cannot mend that.
    """
    ending = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait((ending,), timeout=seconds)
    finally:
        await cancel((ending,))
    return bool(done)


async def cancel(futures: Collection[asyncio.Future[Any]]) -> None:
    """Cancel ``futures``, wait ``CLOSE_SECONDS`` at most for their end, and ignore their errors."""
    await cancel_and_wait(futures, CLOSE_SECONDS)


# Single requests.


async def topic_metadata(host: str, port: int, topic: str, options: Mapping[str, Any]) -> Any:
    """Ask one broker for a topic over a connection of its own; do not create the topic.

    Return ``error_code`` and ``partitions``. aiokafka's clients raise "unable to bootstrap" for any
    failure and write the reason, if any, to the log.
    """
    connection = await create_conn(host, port, **options)
    try:
        response = await connection.send(MetadataRequest([topic], False))
    finally:
        await finish(connection.close(), CLOSE_SECONDS)
    (found,) = response.to_object()["topics"]
    return found


async def topic_identity(consumer: AIOKafkaConsumer, topic: str) -> str:
    """Return the id of the cluster and that of the topic, as far as its brokers know them.

    Brokers before Kafka 3.1 give no topic id here. Raises KafkaError.
    """
    client = consumer._client
    response = await client.send(client.get_random_node(), _TopicRequest([topic], False))
    found = response.to_object()
    ids = [each["topic_id"] for each in found["topics"] if each.get("topic_id")]
    return f"{found.get('cluster_id') or ''}/{ids[0].hex() if any(ids[:1]) else ''}".strip("/")


class _UUID(AbstractType):  # type: ignore[misc]  # aiokafka has no types
    """16 bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return cast(bytes, data.read(16))


_String = CompactString("utf-8")
_METADATA_VERSION = 12
"""aiokafka has no version above 5, and topics have ids since version 10."""


class _MetadataResponse(Response):  # type: ignore[misc]  # as above
    API_KEY = MetadataRequest.API_KEY
    API_VERSION = _METADATA_VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", _String),
                ("port", Int32),
                ("rack", _String),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", _String),
        ("controller_id", Int32),
        (
            "topics",
            # The rest of the response is left unread, because one topic is asked for.
            CompactArray(("error_code", Int16), ("topic", _String), ("topic_id", _UUID)),
        ),
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]  # as above
    FLEXIBLE_VERSION = True
    API_KEY = MetadataRequest.API_KEY
    API_VERSION = _METADATA_VERSION
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _UUID), ("topic", _String), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicRequest(MetadataRequest):  # type: ignore[misc]  # as above
    """A request for metadata in version 12, or in an older one if the broker has none newer."""

    API_KEY = MetadataRequest.API_KEY

    def __init__(self, topics: list[str], allow_auto_topic_creation: bool) -> None:
        super().__init__(topics, allow_auto_topic_creation)
        self._names = topics

    def build(self, request_struct_class: Any) -> Any:
        """Return the request in a version that the broker has."""
        if request_struct_class is not _MetadataRequest:
            return super().build(request_struct_class)
        topics: list[Any] = [(bytes(16), name, {}) for name in self._names]
        return _MetadataRequest(topics, False, False, {})


# Set after the class is made: aiokafka sets it for each subclass.
_TopicRequest._CLASSES = (*MetadataRequest._CLASSES, _MetadataRequest)


def hide_logins_in_log() -> None:
    """Drop the log records of ``aiokafka.conn`` that show a login.

    At level DEBUG aiokafka logs every request; that of SASL PLAIN holds the password.
    """
    logging.getLogger("aiokafka.conn").addFilter(_shows_no_login)  # added only once


def _shows_no_login(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any("SaslAuthenticateRequest" in type(each).__name__ for each in arguments)


# Reading records with header names that are not UTF-8; see lenient_records.


def observe_fetches(
    consumer: AIOKafkaConsumer, observe: Callable[[TopicPartition, bytes | None], None]
) -> None:
    """Call ``observe`` with the bytes of each partition in each fetch response."""
    client, send = consumer._client, consumer._client.send

    async def send_observed(
        node: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        response = await send(node, request, group=group)
        if type(response).__name__.startswith("FetchResponse"):
            for topic, partitions in response.topics:
                for number, *_, records in partitions:
                    observe(TopicPartition(topic, number), records)
        return response

    client.send = send_observed


def read_leniently(consumer: AIOKafkaConsumer, tp: TopicPartition, data: bytes | None) -> bool:
    """Let ``getmany`` read the fetched records of a partition from ``data``, leniently.

    Without ``data`` nothing changes. Return whether the partition is read leniently.
    """
    result = consumer._fetcher._records.get(tp)
    current = result._partition_records if isinstance(result, FetchResult) else None
    if current is None:
        return False
    if data is not None:
        result._partition_records = PartitionRecords(
            tp,
            LenientRecords(data),
            current._aborted_transactions,
            current.next_fetch_offset,
            None,
            None,
            current._check_crcs,
            current._isolation_level,
        )
    return isinstance(result._partition_records._records, LenientRecords)


class LenientRecords:
    """Yield the batches in ``data`` as aiokafka's ``MemoryRecords`` does."""

    def __init__(self, data: bytes) -> None:
        self._records = _MemoryRecordsPy(data)

    def has_next(self) -> bool:
        """Return whether there is another batch."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch."""
        data = self._records._next_slice
        batch = self._records.next_batch()
        assert data is not None
        return batch if data[_MemoryRecordsPy.MAGIC_OFFSET] < _V2 else _LenientBatch(data)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """Read a batch whose header names may be any bytes."""

    def _read_msg(self, decode_varint: Any = decode_varint_py) -> Any:
        # The decoder in C reads beyond the end of a malformed batch: the process then ends with
        # SIGSEGV.
        return super()._read_msg(decode_varint)

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _LenientBytes(self._buffer)  # type: ignore[has-type]  # as above


class _LenientBytes(bytearray):
    """Bytes whose slices decode any bytes, because ``_read_msg`` decodes names as strict UTF-8."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(part, bytearray) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Decode UTF-8; keep other bytes as surrogates."""
        return super().decode(encoding, "surrogateescape")
