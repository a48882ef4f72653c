"""Messages that wait without working keep no others from being received."""

from __future__ import annotations

import asyncio
from typing import cast

from gizmopy.errors import Reject, Retry
from gizmopy.pubsub import Message
from gizmopy.pubsub.driver import PauseAllReceiver, PausingReceiver, Receiver
from gizmopy.pubsub.subscription import Order
from pubsubtest.conformance.checking import PAUSES, PAUSES_ALL, Checks, expect
from pubsubtest.conformance.context import CheckContext

check = Checks()

_WAITING = 30
"""How many messages wait, beside a ``max_in_flight`` of 5."""
_KEYS = tuple(f"key-{number}" for number in range(24))


def _order(context: CheckContext) -> Order:
    return "key" if context.can.ordering else "none"


@check()
async def messages_that_wait_to_be_retried_hold_up_nobody(context: CheckContext) -> None:
    """More messages than ``max_in_flight`` wait for their retry; the others are handled."""

    async def handle(message: Message) -> None:
        if message.body == b"bad":
            raise Retry(after=60, counted=False)

    running = await context.run(handle, order=_order(context), concurrency=2, max_in_flight=5)
    for number in range(_WAITING):
        await context.send(context.message(b"bad", key=f"bad-{number}"))
    for number in range(5):
        await context.send(context.message(b"good", key=f"good-{number}"))
    await context.until(
        lambda: len(running.bodies("ack")) == 5, "the handling of 5 messages beside those that wait"
    )


@check()
async def dead_letters_that_hang_hold_up_nobody(context: CheckContext) -> None:
    """While no dead letter is confirmed, other messages are handled."""
    confirmed = asyncio.Event()

    async def handle(message: Message) -> None:
        if message.body == b"bad":
            raise Reject("bad")

    async def publish(message: Message) -> None:
        await confirmed.wait()

    running = await context.run(
        handle, order=_order(context), concurrency=2, max_in_flight=5, dead_letter=publish
    )
    for number in range(10):
        await context.send(context.message(b"bad", key=f"bad-{number}"))
    await context.send(context.message(b"good", key="good"))
    await context.until(lambda: running.bodies("ack"), "the handling of a message beside them")
    expect(not running.bodies("dead_letter"), "a message was settled before its dead letter")
    confirmed.set()
    await context.until(lambda: len(running.bodies("dead_letter")) == 10, "the dead letters")


@check(PAUSES)
async def a_paused_partition_is_not_received(context: CheckContext) -> None:
    """The others are, and after ``resume`` all of its messages come, in order."""
    receiver = await context.receiver(ordered=True)
    await context.send_numbers(len(_KEYS), _KEYS)
    first = await context.collect(receiver, len(_KEYS), settle=True)
    paused = first[0].partition
    pausing = _pausing(receiver)
    pausing.pause((paused,))
    await context.send_numbers(2 * len(_KEYS), _KEYS)
    others = 2 * sum(message.partition != paused for message in first)
    got = await context.collect(receiver, others, settle=True)
    expect(all(m.partition != paused for m in got), "a paused partition was received")
    pending = asyncio.ensure_future(receiver.receive(100, context.max_wait))
    await asyncio.wait((pending,), timeout=context.quiet)
    expect(not pending.done(), "a paused partition was received")
    pausing.resume((paused,))
    async with context.in_time("a receive after resume"):
        rest = list(await pending)
    await context.ack(receiver, *rest)
    missing = 2 * len(_KEYS) - others - len(rest)
    rest += await context.collect(receiver, missing, settle=True) if missing else []
    numbers = [int(message.body or b"") for message in rest]
    expect(numbers == sorted(numbers), f"after resume the partition arrived as {numbers}")


@check(PAUSES)
async def a_full_waiting_room_stops_only_its_partition(context: CheckContext) -> None:
    """Of a partition with ``max_waiting`` messages that wait no more is received."""
    receiver = await context.receiver()
    await context.send_numbers(len(_KEYS), _KEYS)
    placed = await context.collect(receiver, len(_KEYS), settle=True)
    await receiver.aclose()
    bad = {m.key for m in placed if m.partition == placed[0].partition}
    waiting: set[bytes | None] = set()

    async def handle(message: Message) -> None:
        if message.key in bad:
            waiting.add(message.body)
            raise Retry(after=60, counted=False)

    running = await context.run(handle, concurrency=2, max_in_flight=4, max_waiting=3)
    await context.send_numbers(4 * len(_KEYS), _KEYS)
    others = 4 * (len(_KEYS) - len(bad))
    await context.until(
        lambda: len(running.bodies("ack")) == others, "the handling of the other partitions"
    )
    await context.until(lambda: running.subscriber.waiting_problem, "the report of a full room")
    most = 3 + 4
    expect(len(waiting) <= most, f"{len(waiting)} messages wait; at most {most} may")


@check(PAUSES_ALL)
async def a_paused_receiver_returns_nothing(context: CheckContext) -> None:
    """``pause_all`` holds for a pending receive and a new one; after ``resume_all`` all comes."""
    receiver = await context.receiver()
    expect(
        hasattr(receiver, "pause_all") and hasattr(receiver, "resume_all"),
        "the driver declares can_pause_all, but its receiver has no pause_all and resume_all",
    )
    pausing = cast(PauseAllReceiver, receiver)
    await context.send_numbers(len(_KEYS), _KEYS)
    await context.collect(receiver, len(_KEYS), settle=True)
    pending = asyncio.ensure_future(receiver.receive(100, context.max_wait))
    pausing.pause_all()
    await context.send_numbers(len(_KEYS), _KEYS)
    await asyncio.wait((pending,), timeout=context.quiet)
    expect(not pending.done() or not await pending, "a paused receiver returned messages")
    pausing.resume_all()
    async with context.in_time("a receive after resume_all"):
        got = list(await pending)
    await context.ack(receiver, *got)
    if missing := len(_KEYS) - len(got):
        await context.collect(receiver, missing, settle=True)


@check()
async def a_paused_subscription_handles_nothing(context: CheckContext) -> None:
    """It begins no handler until it is resumed, and then handles all; nothing is lost."""
    handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    running = await context.run(handle)
    await context.send(context.message(b"before"))
    await context.until(lambda: running.bodies("ack"), "the handling before the pause")
    running.subscriber.pause()
    await context.send_numbers(3)
    await asyncio.sleep(context.quiet)
    expect(handled == [b"before"], "a paused subscription has handled a message")
    expect(not running.subscriber.problem, f"paused, it reports {running.subscriber.problem!r}")
    running.subscriber.resume()
    await context.until(
        lambda: len(set(running.bodies("ack"))) == 4, "the handling of all after the pause"
    )


def _pausing(receiver: Receiver) -> PausingReceiver:
    expect(
        hasattr(receiver, "pause") and hasattr(receiver, "resume"),
        "the driver declares can_pause, but its receiver has no pause and resume",
    )
    return receiver  # type: ignore[return-value]  # checked above
