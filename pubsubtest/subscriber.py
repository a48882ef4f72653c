"""Run one handler on the messages of a test: a double for the broker, with the real engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gizmopy.errors import UsageError, seconds_from
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import (
    Capabilities,
    Message,
    Status,
    Subscriber,
    Subscription,
    collect_subscriptions,
    subscribe,
)
from gizmopy.pubsub.driver import Results, Revoke
from gizmopy.untrusted.durations import DurationLike
from pubsubtest.publisher import Recorded, RecordingPublisher

LONGEST_WAIT = 0.001
"""The longest wait of a retry, in seconds, so that tests do not wait for backoff."""

_BATCH_WAIT = 0.02
"""The longest wait for a batch, in seconds: long enough for a message that is redelivered."""

_BROKER = Capabilities(
    ordering=True,
    can_nack=True,
    native_delay=True,
    lease=None,
    positions=False,
    delivery_count=True,
    process_local=False,
    batch_messages=100,
    batch_bytes=None,
    message_bytes=None,
)


def incoming(
    value: object,
    *,
    topic: str = "given",
    key: str | None = None,
    attributes: Mapping[str, str] | None = None,
    delivery: int = 1,
) -> Message:
    """Return the message that a subscriber receives if ``value`` is published.

    ``value`` is anything that can be published: a model, a dict, a protobuf message, text, bytes,
    a Message, or None for a tombstone. A Message keeps its id and date. Raises UsageError if a
    publisher would.
    """
    message = RecordingPublisher(topic).compose(value, key, attributes)
    if isinstance(value, Message):
        message.id = value.id or message.id
        message = Message.received(
            topic,
            message.body,
            message.key,
            message.attributes,
            message.id,
            value.published_at,
            value.partition,
            value.raw,
        )
    message.delivery = delivery
    return message


class Outcome(str):
    """The outcome of a message: a text ``"ack"``, ``"nack"`` or ``"dead_letter"``, with details."""

    __slots__ = ("dead_letter", "delay", "error", "message")

    message: Message
    """The message as it was handled, with its ``delivery`` and ``attempt``."""
    error: BaseException | None
    """The error of its handling, if any."""
    delay: float | None
    """The delay of the redelivery, in seconds, if the outcome is ``"nack"``."""
    dead_letter: Recorded | None
    """The dead letter, with the reason in its attributes, if the outcome is ``"dead_letter"``."""


class FakeSubscriber:
    """Run a handler on the real engine, with messages that a test delivers.

    ``handler`` is a method of a service instance with ``@subscribe``. It may also be any async
    function, with the ``options`` of ``@subscribe`` except the channel. Waits between attempts are
    shortened to a millisecond::

        fake = FakeSubscriber(Cats().on_cat)
        tom, shy, garbage = await fake.run([Cat(name="Tom"), Cat(name="shy"), b"garbage"])
        assert tom == "ack"
        assert shy == "nack" and shy.delay == 3600
        assert garbage.dead_letter.attributes["gizmo-dl-reason"] == "undecodable"

    Use ``pubsubtest.serve`` for a handler that publishes, or needs the ``lifespan`` of its service.
    Raises UsageError on a handler without ``@subscribe`` and options.
    """

    def __init__(self, handler: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> None:
        self.subscription = _subscription(handler, options)

    async def run(
        self, given: Iterable[object], *, redeliver: bool = False, timeout: DurationLike = 10.0
    ) -> list[Outcome]:
        """Deliver ``given``, and return the outcome of each message, in order.

        A Message is delivered unchanged, with its key, attributes and ``delivery``. An exception is
        raised by the broker in its turn. Any other value is delivered as ``incoming`` encodes it.
        Each message is delivered once; with ``redeliver``, a nacked message is delivered again
        until it has another outcome.

        Raises the error that ends the subscriber, such as a permanent error in ``given``, and
        TimeoutError if a message is not settled within ``timeout``.
        """
        seconds = seconds_from("run(timeout=)", timeout)
        script = _ScriptedReceiver(given, self.subscription, redeliver=redeliver)
        async with self._subscriber(script) as subscriber:
            running = asyncio.create_task(subscriber.run(), name="fake subscriber")
            try:
                await asyncio.wait(
                    (running, script.is_over),
                    timeout=seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                outcomes = dict(script.outcomes)  # without the nacks of the drain
            finally:
                await subscriber.drain(0)
                await asyncio.wait((running,))
        running.result()
        if (missing := script.count - len(outcomes)) > 0:
            raise TimeoutError(
                f"{missing} of {script.count} messages were not settled within {seconds:g} s: "
                f"{self.subscription.name} hangs, or always fails and has no dead-letter channel "
                "(the log has its errors)"
            )
        return [outcomes[place] for place in range(script.count)]

    def _subscriber(self, script: _ScriptedReceiver) -> Subscriber:
        return Subscriber(
            script,
            replace(self.subscription, batch_wait=min(self.subscription.batch_wait, _BATCH_WAIT)),
            topic=self.subscription.channel,
            capabilities=_BROKER,
            metrics=Metrics(),
            dead_letter=script.record_dead_letter if self.subscription.dead_letter else None,
            on_settle=script.on_settle,
            sleep=lambda seconds: asyncio.sleep(min(seconds, LONGEST_WAIT)),
        )


class _ScriptedReceiver:
    """A receiver that delivers given messages, and records their outcomes."""

    def __init__(
        self, given: Iterable[object], subscription: Subscription, *, redeliver: bool
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        """The last outcome of each message, by its index."""
        self.count = 0
        """The number of messages."""
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when every message is delivered and settled."""
        self._subscription = subscription
        self._redeliver = redeliver
        self._queue: deque[Message | Exception] = deque()
        self._places: dict[Message, int] = {}
        self._delays: dict[Message, float] = {}
        self._dead_letters: defaultdict[str, deque[Recorded]] = defaultdict(deque)
        self._changed = asyncio.Event()
        self._is_waiting = False
        """Whether a receive waits because there is no message to deliver."""
        self._is_closed = False
        for value in given:
            self._put(value)

    def _put(self, value: object) -> None:
        if isinstance(value, Exception):
            self._queue.append(value)
            return
        if isinstance(value, Message):  # a copy, since the engine changes it
            message = value.copy(value.delivery, value.partition, value.raw)
        else:
            message = incoming(value, topic=self._subscription.channel)
        self._places[message] = self.count
        self._queue.append(message)
        self.count += 1

    async def connect(self, revoke: Revoke) -> None:
        """Do nothing."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return the next messages, or raise the next error."""
        while not (self._queue or self._is_closed):
            self._is_waiting = True
            self._check_over()
            self._changed.clear()
            await self._changed.wait()
        self._is_waiting = False
        batch: list[Message] = []
        while self._queue and len(batch) < limit:
            if batch and isinstance(self._queue[0], Exception):
                break
            front = self._queue.popleft()
            if isinstance(front, Exception):
                raise front
            batch.append(front)
        return batch

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Settle messages."""
        return [None] * len(batch)

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Record the delay; ``on_settle`` delivers the messages again."""
        self._delays.update(dict.fromkeys(batch, delay))
        return [None] * len(batch)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Do nothing: there are no leases."""
        return [None] * len(batch)

    def status(self) -> Status:
        """Return an empty status."""
        return Status()

    async def aclose(self) -> None:
        """End a pending receive."""
        self._is_closed = True
        self._changed.set()

    async def record_dead_letter(self, dead: Message) -> None:
        """Record a dead letter; the engine calls it to publish one."""
        channel = self._subscription.dead_letter
        record = Recorded(channel, dead.body, dead.key, dead.attributes, dead.id)
        self._dead_letters[dead.id].append(record)

    def on_settle(self, message: Message, settled: str, error: BaseException | None) -> None:
        """Record the outcome of a message, or deliver it again."""
        place = self._places.pop(message)
        if settled == "nack" and self._redeliver:
            again = message.copy(message.delivery + 1, message.partition, message.raw)
            self._places[again] = place
            self._queue.append(again)
            self._changed.set()
            return
        outcome = self.outcomes[place] = Outcome(settled)
        outcome.message = message
        outcome.error = error
        outcome.delay = self._delays.pop(message, None)
        dead = settled == "dead_letter"
        outcome.dead_letter = self._dead_letters[message.id].popleft() if dead else None
        self._check_over()

    def _check_over(self) -> None:
        """Complete ``is_over`` if every message has an outcome."""
        if self._is_waiting and len(self.outcomes) == self.count and not self.is_over.done():
            self.is_over.set_result(None)


def _subscription(
    handler: Callable[..., Coroutine[Any, Any, Any]], options: Mapping[str, Any]
) -> Subscription:
    """Return the subscription that a handler declares, or one with ``options``."""
    service = getattr(handler, "__self__", None)
    if options or service is None:
        service = _service_of(handler, options)
    for subscription in collect_subscriptions(service, "given"):
        if subscription.name.rpartition(".")[2] == handler.__name__:
            return subscription
    raise UsageError(
        f"{handler.__qualname__} has no @subscribe; add it, or pass its options, such as "
        'FakeSubscriber(handler, order="key")'
    )


def _service_of(
    handler: Callable[..., Coroutine[Any, Any, Any]], options: Mapping[str, Any]
) -> object:
    """Return a service with ``handler`` as its only handler."""

    async def marked() -> None: ...

    mark = subscribe("given", **options)(marked) if options else handler
    service = type("Given", (), {handler.__name__: mark})()
    setattr(service, handler.__name__, handler)
    return service
