"""A subscriber of messages that a test gives it: a double for the broker, not for the engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gizmopy.errors import UsageError
from gizmopy.observe.context import new_id
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
from gizmopy.pubsub.codecs import encode
from gizmopy.pubsub.driver import Results, Revoke
from gizmopy.pubsub.message import CONTENT_TYPE
from pubsubtest.publisher import Recorded

LONGEST_WAIT = 0.001
"""Seconds that a retry waits here: a test does not want to wait for backoff."""

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
    """Return the message as which ``value`` arrives: encoded as a publisher does it.

    ``value`` is anything that can be published: a model, a dict, a protobuf message, text, bytes,
    or None for a tombstone. Raises UsageError where it cannot be encoded.
    """
    body, content_type = encode(value)
    headers = {CONTENT_TYPE: content_type} if content_type else {}
    headers.update(attributes or {})
    return Message(topic, body, key=key, attributes=headers, id=new_id(), delivery=delivery)


class Outcome(str):
    """What became of a message: it equals ``"ack"``, ``"nack"`` or ``"dead_letter"``."""

    __slots__ = ("dead_letter", "delay", "error", "message")

    message: Message
    """As it was handled, with its ``delivery`` and ``attempt``."""
    error: BaseException | None
    """What its handling ended with."""
    delay: float | None
    """The seconds after which a nacked message is to come again."""
    dead_letter: Recorded | None
    """What was published of it, with attributes that say why."""


class FakeSubscriber:
    """Run a handler, by the real engine, on what a test lets a broker deliver.

    ``handler`` is a method that is marked with ``@subscribe``, of a service that is made, or any
    async function, where ``options`` are what ``@subscribe`` takes but for the channel. Waits
    between tries take no time::

        fake = FakeSubscriber(Cats().on_cat)
        tom, shy, garbage = await fake.run([Cat(name="Tom"), Cat(name="shy"), b"garbage"])
        assert tom == "ack"
        assert shy == "nack" and shy.delay == 3600
        assert garbage.dead_letter.attributes["dl-reason"] == "undecodable"

    A handler that publishes, or needs its service's ``lifespan``, is one for ``pubsubtest.serve``.
    Raises UsageError on a handler that is not marked, where no options are given.
    """

    def __init__(self, handler: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> None:
        self.subscription = _subscription(handler, options)

    async def run(
        self, given: Iterable[object], *, redeliver: bool = False, timeout: float = 10.0
    ) -> list[Outcome]:
        """Deliver what is ``given``, and return the outcome of each message, in the order given.

        A Message is delivered as it is, with its key, attributes and ``delivery``; an exception is
        raised by the broker in its turn; any other value is delivered as ``incoming`` makes it. An
        outcome is that of the one delivery; with ``redeliver`` what is nacked comes again until it
        is settled for good.

        Raises what the subscriber dies of, such as a given error that is not transient, and
        TimeoutError where not all is settled within ``timeout`` seconds.
        """
        script = _Script(given, self.subscription, redeliver=redeliver)
        async with self._subscriber(script) as subscriber:
            running = asyncio.create_task(subscriber.run(), name="fake subscriber")
            try:
                await asyncio.wait(
                    (running, script.is_over),
                    timeout=timeout,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                outcomes = dict(script.outcomes)  # what the drain gives back is none
            finally:
                await subscriber.drain(0)
                await asyncio.wait((running,))
        running.result()
        if (missing := script.count - len(outcomes)) > 0:
            raise TimeoutError(
                f"{missing} of {script.count} messages were not settled within {timeout:g} s: "
                f"{self.subscription.name} hangs, or fails each time without a dead letter to go "
                "to (the log has its errors)"
            )
        return [outcomes[place] for place in range(script.count)]

    def _subscriber(self, script: _Script) -> Subscriber:
        return Subscriber(
            script,
            replace(self.subscription, batch_wait=0.0),  # all that is given is there
            topic=self.subscription.channel,
            capabilities=_BROKER,
            metrics=Metrics(),
            dead_letter=script.bury if self.subscription.dead_letter else None,
            on_settle=script.on_settle,
            sleep=lambda seconds: asyncio.sleep(min(seconds, LONGEST_WAIT)),
        )


class _Script:
    """A receiver that delivers what it was given, and remembers what becomes of it."""

    def __init__(
        self, given: Iterable[object], subscription: Subscription, *, redeliver: bool
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        """The last outcome of each message, by its place among those given."""
        self.count = 0
        """How many messages there are."""
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when nothing is left to be delivered or settled."""
        self._subscription = subscription
        self._redeliver = redeliver
        self._queue: deque[Message | Exception] = deque()
        self._places: dict[Message, int] = {}
        self._delays: dict[Message, float] = {}
        self._dead_letters: defaultdict[str, deque[Recorded]] = defaultdict(deque)
        self._changed = asyncio.Event()
        self._is_waiting = False
        """There is nothing left to deliver, for now."""
        self._is_closed = False
        for value in given:
            self._put(value)

    def _put(self, value: object) -> None:
        if isinstance(value, Exception):
            self._queue.append(value)
            return
        if isinstance(value, Message):  # a copy: the engine writes on it
            message = value.copy(value.delivery, value.partition, value.raw)
        else:
            message = incoming(value, topic=self._subscription.channel)
        self._places[message] = self.count
        self._queue.append(message)
        self.count += 1

    async def connect(self, revoke: Revoke) -> None:
        """Do nothing."""

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return the next messages, or raise the error that comes before them."""
        while not (self._queue or self._is_closed):
            self._is_waiting = True
            self._look()
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
        """Note the delay; deliver messages again at once, where they are to come again."""
        self._delays.update(dict.fromkeys(batch, delay))
        return [None] * len(batch)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Do nothing: there are no leases."""
        return [None] * len(batch)

    def status(self) -> Status:
        """Tell nothing."""
        return Status()

    async def aclose(self) -> None:
        """End a pending receive."""
        self._is_closed = True
        self._changed.set()

    async def bury(self, dead: Message) -> None:
        """Take a dead letter in."""
        channel = self._subscription.dead_letter
        record = Recorded(channel, dead.body, dead.key, dead.attributes, dead.id)
        self._dead_letters[dead.id].append(record)

    def on_settle(self, message: Message, settled: str, error: BaseException | None) -> None:
        """Note what became of a message."""
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
        self._look()

    def _look(self) -> None:
        """See whether all is over."""
        if self._is_waiting and len(self.outcomes) == self.count and not self.is_over.done():
            self.is_over.set_result(None)


def _subscription(
    handler: Callable[..., Coroutine[Any, Any, Any]], options: Mapping[str, Any]
) -> Subscription:
    """Return the subscription that a handler is marked with, or that ``options`` make."""
    service = getattr(handler, "__self__", None)
    if options or service is None:
        service = _service_of(handler, options)
    for subscription in collect_subscriptions(service, "given"):
        if subscription.name.rpartition(".")[2] == handler.__name__:
            return subscription
    raise UsageError(
        f"{handler.__qualname__} is not marked with @subscribe; mark it, or give options of "
        'it, such as FakeSubscriber(handler, order="key")'
    )


def _service_of(
    handler: Callable[..., Coroutine[Any, Any, Any]], options: Mapping[str, Any]
) -> object:
    """Return a service that has ``handler`` as its only one, with the options or its own marks."""

    async def marked() -> None: ...

    mark = subscribe("given", **options)(marked) if options else handler
    service = type("Given", (), {handler.__name__: mark})()
    setattr(service, handler.__name__, handler)
    return service
