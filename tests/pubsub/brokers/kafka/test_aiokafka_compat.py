"""The private parts of aiokafka: one module uses them, lists them, and they exist."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

import gizmopy
from gizmopy.pubsub import Message
from gizmopy.pubsub.brokers.kafka import aiokafka_compat
from tests.pubsub.brokers.kafka.mock_cluster import MockCluster

ROOT = Path(gizmopy.__file__).parent
COMPAT = Path(aiokafka_compat.__file__)
DOCUMENTED = {
    "aiokafka",
    "aiokafka.abc",
    "aiokafka.admin",
    "aiokafka.errors",
    "aiokafka.partitioner",
}
"""The modules of aiokafka that any module of the driver may import."""


def listed() -> Mapping[str, list[str]]:
    """Return the names in the docstring of the compat module, by their class or module."""
    assert aiokafka_compat.__doc__ is not None
    items = re.findall(r"^- ((?:.+\n)+?)(?=- |\Z)", aiokafka_compat.__doc__, re.M)
    names = [re.findall(r"``(.+?)``", item) for item in items]
    return {owner: rest for owner, *rest in names}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """Yield every module of gizmopy."""
    for path in ROOT.rglob("*.py"):
        yield path, ast.parse(path.read_text())


def private_attributes(tree: ast.AST) -> set[str]:
    """Return the private attributes that a module uses of objects other than ``self``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found |= set() if is_own else {node.attr}
    return found


def imported(tree: ast.AST) -> set[tuple[str, str]]:
    """Return the modules of aiokafka that a module imports from, and the names."""
    return {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiokafka")
        for alias in node.names
        if node.module is not None
    }


def test_only_the_driver_imports_aiokafka() -> None:
    """No module outside gizmopy/pubsub/brokers/kafka does."""
    for path, tree in modules():
        if not path.is_relative_to(COMPAT.parent):
            assert not imported(tree), path


def test_only_one_module_uses_private_parts() -> None:
    """The others import documented modules only, and use no private attribute but Message's."""
    for path, tree in modules():
        if path.is_relative_to(COMPAT.parent) and path != COMPAT:
            assert {module for module, _ in imported(tree)} <= DOCUMENTED, path
            assert private_attributes(tree) - set(Message.__slots__) == set(), path


def test_the_docstring_lists_each_private_part_that_is_used() -> None:
    """Each private attribute and each undocumented import is in the list, and no other."""
    tree = ast.parse(COMPAT.read_text())
    names = {name for names in listed().values() for name in names}
    assert private_attributes(tree) <= names
    undocumented = {(module, name) for module, name in imported(tree) if module not in DOCUMENTED}
    assert undocumented == {
        (owner, name)
        for owner, names in listed().items()
        if owner.startswith("aiokafka.")
        for name in names
    }
    source = COMPAT.read_text().removeprefix(f'"""{aiokafka_compat.__doc__}"""')
    assert {name for name in names if not re.search(rf"\b{name}\b", source)} == set()


async def test_each_private_part_exists(mock: MockCluster) -> None:
    """The installed version of aiokafka has each listed name, as a running client shows."""
    mock.create_topic("cats", 1)
    producer = AIOKafkaProducer(bootstrap_servers=mock.bootstrap)
    consumer = AIOKafkaConsumer(
        "cats", bootstrap_servers=mock.bootstrap, group_id="g", auto_offset_reset="earliest"
    )
    async with producer, consumer:
        await producer.send_and_wait("cats", b"x")
        owners = await running_parts(consumer, producer)
        for owner, names in listed().items():
            part = importlib.import_module(owner) if owner not in owners else owners[owner]
            missing = [name for name in names if not hasattr(part, name)]
            assert not missing, f"aiokafka {aiokafka.__version__}: {owner} has no {missing}"


async def running_parts(consumer: Any, producer: Any) -> Mapping[str, object]:
    """Return the parts of running clients by the names of their classes."""
    async with asyncio.timeout(10):
        while not consumer._fetcher._records:  # noqa: ASYNC110 - aiokafka sends no notification
            await asyncio.sleep(0.01)
    (result,) = consumer._fetcher._records.values()
    assert isinstance(result, FetchResult)
    assignment = consumer._subscription.subscription.assignment
    (tp,) = assignment.tps
    builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, timestamp=1, key=None, value=b"a", headers=[])
    batch = bytes(builder.build())
    parts = [
        consumer,
        producer,
        producer._sender,
        consumer._client,
        next(iter(consumer._client._conns.values())),
        consumer._coordinator,
        consumer._subscription,
        assignment,
        assignment.state_value(tp),
        consumer._fetcher,
        result,
        result._partition_records,
        _DefaultRecordBatchPy(batch),
        _MemoryRecordsPy(batch),
        MetadataRequest([], False),
    ]
    named: dict[str, object] = {type(part).__name__: part for part in parts}
    return named | {"Subscription": consumer._subscription.subscription}
