"""Order: which messages wait for others, and which may be handled at once."""

from __future__ import annotations

import asyncio

import pytest

from gizmopy.pubsub import Message
from tests.pubsub.support import (
    Gate,
    capabilities,
    held,
    lose_lease,
    message,
    running,
    turns,
    until,
)


async def test_messages_of_one_key_are_handled_one_at_a_time() -> None:
    """Other keys, and messages without a key, do not wait for it."""
    gate = Gate()
    async with running(gate, concurrency=10, order="key") as bench:
        bench.receiver.put(
            message(id="a1", key="a"),
            message(id="a2", key="a"),
            message(id="b1", key="b"),
            message(id="n1"),
            message(id="n2"),
        )
        await until(lambda: len(gate.started) == 4)
        await turns()
        assert gate.started == ["a1", "b1", "n1", "n2"]
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)
    assert gate.started[-1] == "a2"


async def test_a_failed_message_blocks_its_key() -> None:
    """While it waits for its retry, its successors are not handled."""
    wait = asyncio.Event()
    handled = []

    async def handler(received: Message) -> None:
        handled.append(received.id)
        if received.id == "a1" and received.attempt == 1:
            raise ValueError

    async def sleep(_: float) -> None:
        await wait.wait()

    async with running(handler, concurrency=5, order="key", sleep=sleep) as bench:
        bench.receiver.put(message(id="a1", key="a"), message(id="a2", key="a"))
        bench.receiver.put(message(id="b1", key="b"))
        await until(lambda: "b1" in handled)
        await turns()
        assert handled == ["a1", "b1"]
        wait.set()
        await until(lambda: len(bench.settled) == 3)
    assert handled == ["a1", "b1", "a1", "a2"]


async def test_order_by_partition_ignores_keys() -> None:
    """The messages of one partition are handled one at a time; None is a partition too."""
    gate = Gate()
    async with running(gate, concurrency=10, order="partition") as bench:
        bench.receiver.put(
            message(id="p1", key="a", partition=0),
            message(id="p2", key="b", partition=0),
            message(id="q1", key="c", partition=1),
            message(id="r1"),
            message(id="r2"),
        )
        await until(lambda: len(gate.started) == 3)
        await turns()
        assert gate.started == ["p1", "q1", "r1"]
        gate.open.set()
        await until(lambda: len(bench.settled) == 5)


async def test_no_successor_of_a_lost_message_is_handled_before_it() -> None:
    """The lost message is delivered again, and must be handled before its successors."""
    gate = Gate()
    can = capabilities(lease=600)
    async with running(gate, can, order="key") as bench:
        bench.receiver.put(*(message(id=str(n), key="k") for n in range(4)))
        await until(lambda: gate.started)
        lose_lease(bench.subscriber, held(bench.subscriber)[2])
        await until(lambda: bench.receiver.nacked)
        gate.open.set()
        await until(lambda: len(bench.outcomes) == 4)
    assert gate.started == ["0", "1"]
    assert sorted(bench.outcomes) == [("0", "ack"), ("1", "ack"), ("2", "lost"), ("3", "released")]


@pytest.mark.parametrize("waits", [False, True])
async def test_the_successors_of_a_lost_message_are_given_back(waits: bool) -> None:
    """Also if the lost one is being handled, or waits for a retry."""
    gate = Gate()
    forever = asyncio.Event()

    async def handler(received: Message) -> None:
        await gate(received)
        if waits:
            raise ValueError("again")

    async def sleep(_: float) -> None:
        await forever.wait()

    async with running(handler, capabilities(lease=600), order="key", sleep=sleep) as bench:
        bench.receiver.put(*(message(id=str(n), key="k") for n in range(2)))
        await until(lambda: gate.started)
        if waits:
            gate.open.set()
            await until(lambda: bench.metric("retries"))
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        gate.open.set()
        await until(lambda: len(bench.outcomes) == 2)
        bench.receiver.put(message(id="3", key="k"))
        await until(lambda: gate.started == ["0", "3"])
        forever.set()
    assert bench.outcomes[:2] == [("0", "lost"), ("1", "released")]
