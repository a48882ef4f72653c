"""A Kafka cluster without Java: the mock brokers of librdkafka, on loopback in this process.

They are in the wheel of confluent-kafka and have their own threads. They serve produce, fetch,
groups and offsets. They have no transactions, admin requests, SASL, replication or disk. Unlike a
real broker they fail on demand: see ``MockCluster.fail``.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ctypes import c_char_p, c_int, c_int16, c_int32, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from confluent_kafka import cimpl

PRODUCER = 0
"""The kind of client that owns a mock cluster; it connects to no broker."""

PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "rd_kafka_conf_new": (c_void_p,),
    "rd_kafka_conf_set": (c_int, c_void_p, c_char_p, c_char_p, c_char_p, c_size_t),
    "rd_kafka_new": (c_void_p, c_int, c_void_p, c_char_p, c_size_t),
    "rd_kafka_destroy": (None, c_void_p),
    "rd_kafka_mock_cluster_new": (c_void_p, c_void_p, c_int),
    "rd_kafka_mock_cluster_destroy": (None, c_void_p),
    "rd_kafka_mock_cluster_bootstraps": (c_char_p, c_void_p),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, c_void_p, c_int32),
    "rd_kafka_mock_topic_create": (c_int, c_void_p, c_char_p, c_int, c_int),
    "rd_kafka_mock_topic_set_error": (None, c_void_p, c_char_p, c_int),
    "rd_kafka_mock_broker_set_down": (c_int, c_void_p, c_int32),
    "rd_kafka_mock_broker_set_up": (c_int, c_void_p, c_int32),
    "rd_kafka_mock_broker_set_rtt": (c_int, c_void_p, c_int32, c_int),
    "rd_kafka_mock_coordinator_set": (c_int, c_void_p, c_char_p, c_char_p, c_int32),
    "rd_kafka_mock_partition_set_leader": (c_int, c_void_p, c_char_p, c_int32, c_int32),
    "rd_kafka_mock_push_request_errors_array": (
        *(None, c_void_p, c_int16, c_size_t),
        ctypes.POINTER(c_int),
    ),
}
"""Result and argument types of the functions that are called here (rdkafka.h, rdkafka_mock.h)."""


class MockCluster:
    """A running mock cluster, and the faults that a test may give it.

    Nodes are numbered from 1. Error codes and API keys are those of the Kafka protocol. A topic
    that a client asks for is created, with 4 partitions. A log survives ``kill``. Each method
    raises OSError if librdkafka refuses the call.
    """

    is_real = False

    def __init__(self, cluster: int) -> None:
        self._cluster = cluster
        self.bootstrap: str = _librdkafka().rd_kafka_mock_cluster_bootstraps(cluster).decode()
        """The nodes, ``host:port,host:port``."""
        self.url = f"kafka://{self.bootstrap}"

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; its leaders are spread over the nodes."""
        self._call("topic_create", name.encode(), partitions, 1)

    def kill(self, node: int) -> None:
        """Close a node's connections and refuse new ones.

        The node stays the leader of its partitions and the coordinator of its groups, unless they
        are moved; they are unreachable meanwhile.
        """
        self._call("broker_set_down", node)

    def start(self, node: int) -> None:
        """Let a killed node accept connections again, on the same port."""
        self._call("broker_set_up", node)

    def delay(self, node: int, seconds: float) -> None:
        """Delay each response of a node by ``seconds``."""
        self._call("broker_set_rtt", node, round(seconds * 1000))

    def move_leader(self, topic: str, partition: int, node: int) -> None:
        """Make a node the leader of a partition."""
        self._call("partition_set_leader", topic.encode(), partition, node)

    def move_coordinator(self, group: str, node: int) -> None:
        """Make a node the coordinator of a group."""
        self._call("coordinator_set", b"group", group.encode(), node)

    def fail(self, api_key: int, *errors: int) -> None:
        """Answer the next requests of a kind with these errors, one each; 0 means success."""
        codes = (c_int * len(errors))(*errors)
        self._call("push_request_errors_array", api_key, len(errors), codes)

    def fail_topic(self, name: str, error: int) -> None:
        """Return this error for a topic in all metadata, as if it were deleted or forbidden; 0 ends
        it.
        """
        self._call("topic_set_error", name.encode(), error)

    def _call(self, function: str, *arguments: object) -> None:
        error = getattr(_librdkafka(), f"rd_kafka_mock_{function}")(self._cluster, *arguments)
        if error:  # None if the function returns no error
            raise OSError(f"librdkafka refused {function}{arguments} with error {error}")
        time.sleep(0.001)  # librdkafka may handle two calls in a row a second late


@contextmanager
def mock_cluster(folder: Path, nodes: int = 1) -> Iterator[MockCluster]:
    """Run a mock cluster on free ports; ``folder`` stays empty, because the mock has no disk."""
    library = _librdkafka()
    error = ctypes.create_string_buffer(512)
    settings = library.rd_kafka_conf_new()  # the owner frees it
    library.rd_kafka_conf_set(settings, b"log_level", b"3", error, len(error))
    with ExitStack() as stack:
        owner = library.rd_kafka_new(PRODUCER, settings, error, len(error))
        if not owner:
            raise OSError(f"librdkafka does not start: {error.value.decode()}")
        stack.callback(library.rd_kafka_destroy, owner)
        cluster = library.rd_kafka_mock_cluster_new(owner, nodes)
        if not cluster:
            raise OSError(f"librdkafka can't listen as {nodes} nodes")
        stack.callback(library.rd_kafka_mock_cluster_destroy, cluster)
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
        stack.enter_context(_leaders_sync_last())
        yield MockCluster(cluster)


@cache
def _librdkafka() -> ctypes.CDLL:
    library = ctypes.CDLL(cimpl.__file__)  # it exports the symbols of librdkafka
    for name, (result, *arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@contextmanager
def _leaders_sync_last() -> Iterator[None]:
    """Let the leader of a group send its assignment after its followers have asked for theirs.

    The mock forgets the assignment once it has sent it. It refuses a follower that asks later with
    INVALID_REQUEST (42), which Kafka does not, and the follower's aiokafka consumer fails. Only
    consumers of this process are delayed.
    """
    assign = CoordinatorGroupRebalance._on_join_leader

    async def assign_later(self: CoordinatorGroupRebalance, response: object) -> object:
        await asyncio.sleep(0.2)
        return await assign(self, response)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CoordinatorGroupRebalance, "_on_join_leader", assign_later)
        yield
