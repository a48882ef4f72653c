"""publish_many: a result for each value, in order, within the buffer's bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from gizmopy.errors import UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Message
from tests.pubsub.publisher.support import (
    PERMANENT,
    GatedSender,
    Opaque,
    bodies,
    buffered,
    failures,
    publisher,
)
from tests.pubsub.support import turns


async def test_each_value_has_its_own_result() -> None:
    """Results are in order; a value that cannot be sent does not affect the others."""
    sender, metrics = GatedSender(), Metrics()
    sender.verdict = lambda m: PERMANENT if m.body == b"bad" else None
    async with publisher(sender, metrics) as out:
        ok, bad, opaque, last = await out.publish_many(["ok", "bad", Opaque(), "last"])
        assert (ok, bad, last) == (None, PERMANENT, None)
        assert isinstance(opaque, UsageError)
        assert await out.publish_many([]) == []
    assert sender.batches == [["ok", "bad", "last"]]
    assert failures(metrics) == {"permanent": 1, "encode": 1}


async def test_a_key_is_one_for_all_or_a_function() -> None:
    """``key`` is a text or a function of the value; a Message has its own key and attributes."""
    sender = GatedSender()
    async with publisher(sender) as out:
        await out.publish_many([{"id": "a"}, {"id": "b"}], key=lambda cat: cat["id"])
        await out.publish_many([1, 2], key="k", attributes={"c": "d"})
        await out.publish_many([Message("x", b"1", key="m", attributes={"e": "f"})])
        (error,) = await out.publish_many([{}], key=lambda cat: cat["id"])
    assert isinstance(error, KeyError)
    assert [m.key for m in sender.sent] == ["a", "b", "k", "k", "m"]
    assert [m.attributes.get("c") for m in sender.sent] == [None, None, "d", "d", None]
    assert (sender.sent[-1].topic, sender.sent[-1].attributes) == ("t", {"e": "f"})


async def test_values_are_taken_when_there_is_room() -> None:
    """A generator is not read further than the buffer has room."""
    sender, taken = GatedSender(), 0

    def values() -> Iterator[str]:
        nonlocal taken
        for number in range(100):
            taken = number + 1
            yield str(number)

    async with publisher(sender, buffered=10) as out:
        sender.gate.clear()
        call = asyncio.create_task(out.publish_many(values()))
        await turns()
        assert taken == 11
        sender.gate.set()
        assert await call == [None] * 100
    assert bodies(sender) == [str(n) for n in range(100)]


async def test_other_calls_take_turns_with_publish_many() -> None:
    """A publish does not wait until all of the many values are in the buffer."""
    sender = GatedSender()
    async with publisher(sender, buffered=2) as out:
        sender.gate.clear()
        many = asyncio.create_task(out.publish_many(map(str, range(100)), key="k"))
        await turns()
        other = asyncio.create_task(out.publish("other"))
        await turns()
        sender.gate.set()
        await asyncio.gather(many, other)
    sent = bodies(sender)
    assert sent.index("other") < 10
    sent.remove("other")
    assert sent == [str(n) for n in range(100)]


async def test_a_cancelled_call_sends_no_more() -> None:
    """Messages that are being sent may arrive; those that wait are dropped and free their room."""
    sender, metrics = GatedSender(), Metrics()
    async with publisher(sender, metrics, buffered=4) as out:
        sender.gate.clear()
        first = asyncio.create_task(out.publish("first"))
        await turns()
        many = asyncio.create_task(out.publish_many(map(str, range(9)), key="k"))
        await turns()
        many.cancel()
        await asyncio.wait([many])
        sender.gate.set()
        await first
        await out.publish("last")
    assert bodies(sender) == ["first", "last"]
    assert buffered(metrics) == 0


async def test_values_that_raise_end_the_call() -> None:
    """An error of the iterable is raised; asyncio logs no failure of the values before it."""
    sender = GatedSender()
    sender.verdict = lambda _: PERMANENT

    def values() -> Iterator[str]:
        yield from "123"
        raise LookupError("no more")

    async with publisher(sender) as out:
        with pytest.raises(LookupError, match="no more"):
            await out.publish_many(values())


async def test_publish_many_on_a_closed_publisher_raises() -> None:
    """It raises UsageError, and the failure is counted."""
    metrics = Metrics()
    out = publisher(GatedSender(), metrics)
    await out.aclose()
    with pytest.raises(UsageError, match="closed"):
        await out.publish_many(["1"])
    assert failures(metrics) == {"closed": 1}


class Cat(BaseModel):
    name: str


@pytest.mark.parametrize(
    "one", ["hello", b"hello", bytearray(b"x"), {"a": 1}, Message("t", b"x"), Cat(name="Tom"), 1]
)
async def test_one_value_is_not_several(one: Any) -> None:
    """A text would be published letter by letter, and a model as its fields."""
    sender = GatedSender()
    async with publisher(sender) as out:
        with pytest.raises(UsageError, match=r"several values, not one \w+; pass \[value\]"):
            await out.publish_many(one)
    assert not sender.batches
