"""Order: the messages of one key arrive in the order of the sends, if the broker keeps order."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from gizmopy.pubsub import Message
from pubsubtest.conformance.checking import (
    NACK,
    ORDER,
    ORDERED_BATCHES,
    SETTLES_EACH,
    Checks,
    expect,
)
from pubsubtest.conformance.context import CheckContext

check = Checks()

KEYS = ("a", "b", "c", "d", "e")


def _numbers(messages: list[Message]) -> list[int]:
    return [int(message.body or b"") for message in messages]


def _expect_ascending(numbers: list[int], of: str) -> None:
    expect(numbers == sorted(numbers), f"{of} arrived in the order {numbers}")


@check(ORDER)
async def a_key_arrives_in_order(context: CheckContext) -> None:
    """The messages of one key arrive in order, in batches of any size."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(50, KEYS)
    keys: defaultdict[str | None, list[Message]] = defaultdict(list)
    for message in await context.collect(receiver, 50, settle=True):
        keys[message.key].append(message)
    for key, messages in keys.items():
        _expect_ascending(_numbers(messages), f"key {key!r}")


@check(ORDER)
async def a_batch_is_sent_in_its_order(context: CheckContext) -> None:
    """The messages of one send arrive in order, whatever their keys."""
    receiver = await context.receiver(ordered=True)
    sender = await context.sender()
    for start in range(0, 20, 2):
        batch = [context.message(str(start + n).encode(), key=KEYS[n]) for n in range(2)]
        expect(not any(await sender.send(batch)), "a message was not sent")
    messages = await context.collect(receiver, 20, settle=True)
    for key in KEYS[:2]:
        _expect_ascending(_numbers([m for m in messages if m.key == key]), f"key {key!r}")


@check(ORDERED_BATCHES)
async def a_batch_may_hold_several_of_a_key(context: CheckContext) -> None:
    """With ``ordered_batches``, the messages of a key in one send keep their order."""
    receiver = await context.receiver(ordered=True)
    sender = await context.sender()
    count = min(context.can.batch_messages, 20)
    batch = [context.message(str(number).encode(), key="k") for number in range(count)]
    expect(not any(await sender.send(batch)), "a message was not sent")
    got = _numbers(await context.collect(receiver, count, settle=True))
    _expect_ascending(got, "a key")


@check(ORDER, SETTLES_EACH)
async def a_key_is_with_one_receiver_at_a_time(context: CheckContext) -> None:
    """While a receiver holds a message of a key, another one does not get the next."""
    first, second = await context.receiver(ordered=True), await context.receiver(ordered=True)
    await context.send_numbers(4, ["k"])
    (held, *_) = await context.collect(first, 1)
    await context.expect_nothing(second)
    expect(_numbers([held]) == [0], f"the first to arrive was {held.body!r}")


@check(ORDER, NACK)
async def order_survives_a_nack(context: CheckContext) -> None:
    """A message that is given back arrives before those that followed it."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(6, ["k"])
    order: list[int] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + context.max_wait
    nacked = False
    while len(order) < 6 and loop.time() < deadline:
        batch = list(await receiver.receive(10, 1.0))
        if batch and not nacked:
            nacked = True
            await receiver.nack(batch, 0)
            continue
        order += _numbers(batch)
        await context.ack(receiver, *batch)
    expect(order == list(range(6)), f"after a nack the key arrived as {order}")


@check(ORDER, SETTLES_EACH)
async def order_survives_a_close(context: CheckContext) -> None:
    """The messages of a closed receiver arrive first at the next one, in order."""
    first = await context.receiver(ordered=True)
    await context.send_numbers(6, ["k"])
    (message, *_) = await context.collect(first, 1)
    expect(_numbers([message]) == [0], f"the first to arrive was {message.body!r}")
    await first.aclose()
    second = await context.receiver(ordered=True)
    again = _numbers(await context.collect(second, 6, settle=True))
    expect(again == list(range(6)), f"after a close the key arrived as {again}")


@check(ORDER)
async def keys_do_not_wait_for_each_other(context: CheckContext) -> None:
    """While the messages of one key are held, those of another key arrive."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(3, ["slow"])
    held = await context.collect(receiver, 1)
    await context.send(context.message(b"7", key="other"))
    seen: list[str | None] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + context.max_wait
    while "other" not in seen and loop.time() < deadline:
        batch = await receiver.receive(10, 1.0)
        seen += [message.key for message in batch]
        held += batch
    expect("other" in seen, "a key waited for another one")
    await context.ack(receiver, *held)
