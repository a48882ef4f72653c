"""The real publisher and subscriber on top of the driver keep what the house promises."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextvars import ContextVar

from gizmopy.errors import PubSubError, Reject, Retry, UndecodableMessage, UsageError
from gizmopy.pubsub import Message, Publisher, Receiver
from gizmopy.pubsub.driver import Results, Revoke
from gizmopy.pubsub.subscription import Outcomes
from pubsubtest.conformance.bench import Bench
from pubsubtest.conformance.checking import LEASES, ORDER, Checks, expect

check = Checks()


async def _dead_letters(bench: Bench) -> tuple[Receiver, Publisher]:
    """Return who receives dead letters, and who publishes them."""
    return await bench.receiver(topic=bench.dead_topic), await bench.publisher(bench.dead_topic)


@check()
async def a_handled_message_is_acked_once(bench: Bench) -> None:
    """Its handler runs once, it is settled once, and it never returns."""
    handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    running = await bench.run(handle)
    await bench.send_numbers(10)
    await bench.until(lambda: len(running.settled) == 10, "the settling of 10 messages")
    expect(len(set(handled)) == 10, f"handled {handled}")
    expect(Counter(running.settled).most_common(1)[0][1] == 1, "a message was settled twice")
    await running.subscriber.drain(1)
    await bench.expect_nothing(await bench.receiver())


@check()
async def a_failing_message_becomes_a_dead_letter(bench: Bench) -> None:
    """After its attempts and deliveries; as it was, with attributes that say why; then acked."""
    dead, publisher = await _dead_letters(bench)
    handlings = 0

    async def fail(message: Message) -> None:
        nonlocal handlings
        handlings += 1
        raise ValueError("bad cat")

    running = await bench.run(fail, dead_letter=publisher.publish)
    await bench.send(bench.message(b"x", key="k", attributes={"a": "b"}))
    (letter,) = await bench.collect(dead, 1, settle=True)
    expect((letter.body, letter.key) == (b"x", "k"), f"the dead letter is {letter!r}")
    attributes = letter.attributes
    expect(attributes.get("a") == "b", "the message's own attribute is gone")
    expect(attributes.get("dl-reason") == "exhausted", f"it says {dict(attributes)}")
    expect("bad cat" in attributes.get("dl-exception", ""), f"it says {dict(attributes)}")
    expect(attributes.get("dl-source-topic") == bench.topic, f"it says {dict(attributes)}")
    expect(handlings == 4, f"2 attempts in each of 2 deliveries were {handlings} handlings")
    await bench.until(lambda: running.bodies("dead_letter"), "the ack of the dead letter")
    await running.subscriber.drain(1)
    await bench.expect_nothing(await bench.receiver())


@check()
async def a_rejected_message_becomes_a_dead_letter_at_once(bench: Bench) -> None:
    """``Reject`` is not tried again, and its reason is told."""
    dead, publisher = await _dead_letters(bench)
    handlings = 0

    async def reject(message: Message) -> None:
        nonlocal handlings
        handlings += 1
        raise Reject("no such cat")

    await bench.run(reject, dead_letter=publisher.publish)
    await bench.send(bench.message(b"x"))
    (letter,) = await bench.collect(dead, 1, settle=True)
    expect(handlings == 1, f"it was handled {handlings} times")
    expect(letter.attributes.get("dl-reason") == "no such cat", f"{dict(letter.attributes)}")


@check()
async def an_undecodable_message_holds_up_nobody(bench: Bench) -> None:
    """It becomes one dead letter at once, and the next message is handled."""
    dead, publisher = await _dead_letters(bench)
    handled: list[bytes | None] = []

    async def decode(message: Message) -> None:
        if message.body == b"0":
            raise UndecodableMessage("no cat")
        handled.append(message.body)

    await bench.run(decode, dead_letter=publisher.publish)
    await bench.send_numbers(2, ["k"])
    (letter,) = await bench.collect(dead, 1, settle=True)
    expect(letter.attributes.get("dl-reason") == "undecodable", f"{dict(letter.attributes)}")
    await bench.until(lambda: handled == [b"1"], "the handling of the next message")
    await bench.expect_nothing(dead)


@check()
async def a_message_is_kept_until_its_dead_letter_is_confirmed(bench: Bench) -> None:
    """A dead letter that is refused acks nothing: the message comes again, and is buried then."""
    refusals = 0
    buried: list[Message] = []

    async def bury(message: Message) -> None:
        nonlocal refusals
        if refusals < 2:
            refusals += 1
            raise PubSubError("the dead letters are full", transient=True)
        buried.append(message)

    async def reject(message: Message) -> None:
        raise Reject("no")

    running = await bench.run(reject, dead_letter=bury)
    await bench.send(bench.message(b"x"))
    await bench.until(lambda: running.bodies("dead_letter"), "the burial")
    expect(refusals == 2 and len(buried) == 1, f"{refusals} refusals, {len(buried)} burials")


@check()
async def retry_after_is_waited_for(bench: Bench) -> None:
    """A message that asks to be handled later is, and not before."""
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def later(message: Message) -> None:
        times.append(loop.time())
        if len(times) == 1:
            raise Retry(after=0.3)

    running = await bench.run(later)
    await bench.send(bench.message(b"x"))
    await bench.until(lambda: running.bodies("ack"), "the second handling")
    expect(times[1] - times[0] >= 0.29, f"it was handled again after {times[1] - times[0]:.2f} s")


@check(LEASES)
async def a_handler_slower_than_the_lease_is_not_disturbed(bench: Bench) -> None:
    """Its lease is kept: the message is delivered once, also while it waits for a worker."""
    handled: list[bytes | None] = []

    async def slow(message: Message) -> None:
        handled.append(message.body)
        await asyncio.sleep(1.6 * bench.lease)

    running = await bench.run(slow, concurrency=1)
    other = await bench.run(slow, concurrency=1, max_in_flight=1)
    await bench.send_numbers(3)
    await bench.until(
        lambda: len(running.settled) + len(other.settled) == 3,
        "the handling of 3 messages",
        within=bench.patience + 6 * bench.lease,
    )
    expect(len(handled) == len(set(handled)) == 3, f"3 messages were handled as {handled}")


@check(ORDER)
async def a_key_is_handled_in_order_whatever_fails(bench: Bench) -> None:
    """With many workers, first handlings of a key ascend, and never two of a key run at once."""
    first: defaultdict[str | None, list[int]] = defaultdict(list)
    running_keys: set[str | None] = set()
    overlaps: list[str | None] = []

    async def handle(message: Message) -> None:
        number = int(message.body or b"")
        if number not in first[message.key]:
            first[message.key].append(number)
        if message.key in running_keys:
            overlaps.append(message.key)
        running_keys.add(message.key)
        await asyncio.sleep(0)
        running_keys.discard(message.key)
        if number % 7 == 3 and message.attempt == 1 and message.delivery == 1:
            raise ValueError("once")

    running = await bench.run(handle, order="key", concurrency=8, max_deliveries=5)
    await bench.send_numbers(60, ["a", "b", "c", "d"])
    await bench.until(lambda: len(running.bodies("ack")) >= 60, "the handling of 60 messages")
    expect(not overlaps, f"two messages of a key were handled at once: {overlaps}")
    for key, numbers in first.items():
        expect(numbers == sorted(numbers), f"key {key!r} was first handled as {numbers}")


@check()
async def a_drain_gives_back_what_is_not_started(bench: Bench) -> None:
    """What runs is finished, the rest goes to the next subscriber, nothing to the dead letters."""
    dead, publisher = await _dead_letters(bench)
    started = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(message: Message) -> None:
        started.set()
        await go_on.wait()

    running = await bench.run(slow, dead_letter=publisher.publish)
    await bench.send_numbers(6, ["k"])
    async with asyncio.timeout(bench.patience):
        await started.wait()
    running.subscriber.stop_receiving()
    draining = asyncio.create_task(running.subscriber.drain(bench.patience))
    await asyncio.sleep(0.05)
    go_on.set()
    await draining
    done = set(running.bodies("ack"))
    handled: set[bytes | None] = set()

    async def handle(message: Message) -> None:
        handled.add(message.body)

    await bench.run(handle)
    await bench.until(lambda: len(done | handled) == 6, "the handling of all")
    await bench.expect_nothing(dead)


@check()
async def a_cancelled_handling_is_never_acked(bench: Bench) -> None:
    """What a drain cancels at its deadline comes to the next subscriber, and is no failure."""
    dead, publisher = await _dead_letters(bench)
    started = asyncio.Event()

    async def hang(message: Message) -> None:
        started.set()
        await asyncio.Event().wait()

    running = await bench.run(hang, dead_letter=publisher.publish)
    await bench.send(bench.message(b"x"))
    async with asyncio.timeout(bench.patience):
        await started.wait()
    running.subscriber.stop_receiving()
    report = await running.subscriber.drain(0)
    expect(not running.bodies("ack"), "a cancelled handling was acked")
    expect(report.finished == 0, f"the report counts it as finished: {report}")
    await bench.collect(await bench.receiver(), 1, settle=True)
    await bench.expect_nothing(dead)


@check()
async def many_messages_outlive_restarts(bench: Bench) -> None:
    """Whatever is drained amid the work, and started again: nothing is lost."""
    handled: Counter[bytes | None] = Counter()

    async def handle(message: Message) -> None:
        await asyncio.sleep(0)
        handled[message.body] += 1

    publisher = await bench.publisher()
    running = await bench.run(handle, concurrency=4)
    total = 150
    for number in range(total):
        if number % 50 == 25:
            running.subscriber.stop_receiving()
            await running.subscriber.drain(bench.patience)
            running = await bench.run(handle, concurrency=4)
        await publisher.publish(str(number).encode(), key=str(number % 5))
    await bench.until(lambda: len(handled) == total, f"the handling of all {total} messages")


@check()
async def no_more_is_in_flight_than_asked_for(bench: Bench) -> None:
    """Without room nothing is received, by count and by bytes."""
    watched = _Watched(bench.driver.receiver(bench.topic, bench.subscription, ordered=False))
    release = asyncio.Event()

    async def wait(message: Message) -> None:
        await release.wait()

    running = await bench.run(
        wait, receiver=watched, concurrency=2, max_in_flight=3, max_in_flight_bytes=10_000
    )
    await bench.send_numbers(9)
    await bench.until(lambda: watched.received == 3, "the receipt of 3 messages")
    await asyncio.sleep(bench.quiet)
    expect(watched.received == 3, f"{watched.received} messages are held, of 3 at most")
    release.set()
    await bench.until(lambda: len(running.bodies("ack")) == 9, "the handling of the rest")
    release.clear()
    await bench.send(*(bench.message(b"x" * 12_000) for _ in range(3)))
    await bench.until(lambda: watched.received >= 10, "the receipt of a large message")
    held = watched.received
    await asyncio.sleep(bench.quiet)
    expect(watched.received == held, "more was received although the bytes are used up")
    release.set()


@check()
async def a_receive_is_never_cancelled(bench: Bench) -> None:
    """Not even by a drain: closing the receiver ends it."""
    watched = _Watched(bench.driver.receiver(bench.topic, bench.subscription, ordered=False))

    async def handle(message: Message) -> None:
        pass

    running = await bench.run(handle, receiver=watched)
    await bench.send_numbers(3)
    await bench.until(lambda: len(running.settled) == 3, "the handling of 3 messages")
    await running.subscriber.drain(bench.patience)
    expect(not watched.cancelled, "a receive was cancelled")


@check()
async def a_batch_handler_settles_each(bench: Bench) -> None:
    """Of a batch, what fails becomes a dead letter, and the rest is acked."""
    dead, publisher = await _dead_letters(bench)

    async def one(message: Message) -> None:
        raise UsageError("this subscription handles batches")

    async def handle(messages: Sequence[Message]) -> Outcomes:
        return [Reject("odd") if int(m.body or b"") % 2 else None for m in messages]

    running = await bench.run(
        one, batch_handler=handle, batch_size=4, batch_wait=0.05, dead_letter=publisher.publish
    )
    await bench.send_numbers(6, ["k"])
    letters = await bench.collect(dead, 3, settle=True)
    expect({m.body for m in letters} == {b"1", b"3", b"5"}, "the wrong ones were rejected")
    await bench.until(lambda: len(running.bodies("ack")) == 3, "the ack of the others")


_CONTEXT: ContextVar[str] = ContextVar("conformance", default="clean")


@check()
async def handlers_do_not_see_each_others_context(bench: Bench) -> None:
    """What one handling sets in a context variable, the next one does not see."""
    seen: list[str] = []

    async def handle(message: Message) -> None:
        seen.append(_CONTEXT.get())
        _CONTEXT.set("dirty")

    running = await bench.run(handle)
    await bench.send_numbers(3)
    await bench.until(lambda: len(running.settled) == 3, "the handling of 3 messages")
    expect(seen == ["clean"] * 3, f"the handlers saw {seen}")


@check()
async def stopping_one_subscriber_leaves_the_other(bench: Bench) -> None:
    """Two subscriptions are drained each for itself."""
    handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)

    first = await bench.run(handle)
    await bench.run(handle, subscription=bench.second_subscription)
    await first.subscriber.drain(1)
    await bench.send_numbers(3)
    await bench.until(lambda: len(handled) == 3, "the handling by the one that stays")


@check()
async def what_is_published_at_once_arrives(bench: Bench) -> None:
    """Many calls at the same time are each confirmed, and each arrives once."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(publisher.publish(str(number).encode()))
    got = Counter(message.body for message in await bench.collect(receiver, 100, settle=True))
    expect(len(got) == 100, f"{len(got)} of 100 messages arrived")


@check(ORDER)
async def a_key_published_at_once_keeps_the_order_of_the_calls(bench: Bench) -> None:
    """Concurrent calls with one key arrive in the order in which they were made."""
    receiver = await bench.receiver(ordered=True)
    publisher = await bench.publisher()
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(publisher.publish(str(number).encode(), key="k"))
    got = [int(m.body or b"") for m in await bench.collect(receiver, 30, settle=True)]
    expect(got == list(range(30)), f"they arrived as {got}")


@check()
async def each_value_has_its_own_result(bench: Bench) -> None:
    """Of many published in one call, the one that cannot be encoded fails, the others arrive."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    results = await publisher.publish_many([b"0", object(), b"2"])
    expect([r is None for r in results] == [True, False, True], f"the results are {results}")
    got = {message.body for message in await bench.collect(receiver, 2, settle=True)}
    expect(got == {b"0", b"2"}, f"{got} arrived")


@check()
async def closing_a_publisher_sends_what_waits(bench: Bench) -> None:
    """What was published before the close is confirmed, and arrives."""
    receiver = await bench.receiver()
    publisher = await bench.publisher()
    calls = [asyncio.create_task(publisher.publish(str(n).encode())) for n in range(50)]
    await asyncio.sleep(0)
    await publisher.aclose()
    failures = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error]
    expect(not failures, f"{len(failures)} calls failed: {failures[:1]}")
    await bench.collect(receiver, 50, settle=True)


@check()
async def a_closed_publisher_refuses_to_publish(bench: Bench) -> None:
    """That is a mistake of its caller, and raises UsageError; a second close does nothing."""
    publisher = await bench.publisher()
    await publisher.aclose()
    await publisher.aclose()
    try:
        await publisher.publish(b"late")
    except UsageError:
        return
    expect(False, "a publisher that is closed published")


class _Watched:
    """A receiver that counts what it hands out, and whether a receive was cancelled."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self.received = 0
        self.cancelled = False
        self.status = inner.status
        self.aclose = inner.aclose

    async def connect(self, revoke: Revoke) -> None:
        await self._inner.connect(revoke)

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        try:
            batch = await self._inner.receive(limit, wait)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.received += len(batch)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        return await self._inner.ack(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        return await self._inner.nack(batch, delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        return await self._inner.extend(batch, seconds)
