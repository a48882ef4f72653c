"""Move dead letters back to where they came from, as a service would: one handler, on the engine.

A dead letter that does not move (its publish failed, it does not match, it is only listed) waits in
place, with its lease, until the end, and is given back then: no run meets it twice. A broker that
keeps positions cannot skip it, so what stands behind it in its partition stays as well, and comes
first in the next run. To publish it once more instead would lose its place and its date, and show
it twice to whoever else reads the dead letters.

At least once, like everything here: a run that is killed between the publish and the ack leaves
a dead letter whose message has moved.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn
from urllib.parse import urlsplit

from gizmopy.config.channel_names import channel_key
from gizmopy.errors import PubSubError, Retry, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.channels import Channels
from gizmopy.pubsub.driver import Capabilities, Driver
from gizmopy.pubsub.engine.dead_letter_topics import AllowedTopics, topic_of
from gizmopy.pubsub.engine.sizes import size_of
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut

REDRIVEN = "dl-redriven"
"""The attribute that counts how often a message was moved back."""
REDRIVEN_AT = "dl-redriven-at"
"""When the run began that moved it last. By it a run knows what it has moved itself."""

_MOST_TIMES = 1_000_000
"""How far ``dl-redriven`` counts."""
_CONCURRENCY = 32
_HELD = 10_000
"""How many messages wait in place at most, for the end of the run."""
_HELD_BYTES = 256 * 1024 * 1024
"""How many bytes they may take."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say which dead letters move, and where to."""

    channel: str
    """The channel that holds the dead letters."""
    subscription: str = "redrive"
    to: str = ""
    """The channel to publish to; empty: the topic that each dead letter came from, if allowed."""
    from_topics: frozenset[str] = frozenset()
    """Topics whose dead letters may go back there, besides those that the settings name."""
    match: str = ""
    """Move only those whose reason or exception contains this."""
    limit: int | None = None
    """How many to move at most, those that fail included; None: all."""
    wait: float = 10.0
    """Seconds without a message after which the dead letters are taken to be at their end."""
    dry_run: bool = False
    """Move nothing."""


class Redrive:
    """Move dead letters by ``plan``, once.

    ``url``, ``topics`` and ``subscriptions`` say where channels lead, as for
    :class:`~gizmopy.pubsub.channels.Channels`. ``on_listed`` is told of each dead letter in a dry
    run, ``on_failed`` of each that failed, with the reason.

    Without ``plan.to`` a dead letter moves only if its ``dl-source-topic`` is a topic that ``url``,
    ``topics``, ``subscriptions`` or ``plan.from_topics`` name. The others stay, and ``refused`` has
    their number by topic.
    """

    def __init__(
        self,
        plan: Plan,
        url: str,
        *,
        topics: Mapping[str, str] = {},
        subscriptions: Mapping[str, str] = {},
        on_listed: Callable[[Message], None],
        on_failed: Callable[[Message, str], None],
        open_driver: Callable[[str], Driver] = drivers.open_driver,
    ) -> None:
        self.redriven = 0
        """Published, and acked as dead letters."""
        self._plan = plan
        self._url = url
        form = channel_key(plan.channel)
        self._source = subscriptions.get(form) or topics.get(form) or url
        self._destinations = AllowedTopics(
            url, topics, subscriptions, also=plan.from_topics, to=plan.to
        )
        self._on_listed = on_listed
        self._on_failed = on_failed
        self._open_driver = open_driver
        self._stamp = datetime.now(UTC).isoformat()
        self._most = _HELD if plan.match or plan.limit is None else min(_HELD, plan.limit)
        self._taken = 0
        self._at_work = 0
        self._stirred = asyncio.Event()
        self._unacked: set[Message] = set()
        """Published, and not yet acked."""
        self._refused: set[str] = set()
        """Not published, by id: what is given back may come once more, on its way out."""
        self._returned: set[str] = set()
        """Given back, by id."""
        self._held = 0
        """What waits in place until the end."""
        self._held_bytes = 0

    @property
    def left(self) -> int:
        """Received, and given back untouched; there may be more that were not received."""
        return len(self._returned - self._refused)

    @property
    def failed(self) -> int:
        """Not published; or published, but not acked."""
        return len(self._refused) + len(self._unacked)

    @property
    def refused(self) -> Mapping[str, int]:
        """How many dead letters stay by the topic they came from, as nothing allows it.

        Under "" are those of topics with longer names than 255 characters, and of more than 100.
        """
        return self._destinations.refused

    @property
    def stopped(self) -> str:
        """Why this ends before the end of the dead letters; empty where it does not."""
        if self._taken == self._plan.limit:
            return f"the limit of {self._plan.limit} is reached"
        if self._held >= _HELD or self._held_bytes >= _HELD_BYTES:
            return (
                f"{self._held} messages with {self._held_bytes} bytes did not move, and no "
                "more are held back at a time"
            )
        return ""

    async def run(self) -> None:
        """Return when there is no more to move. May be cancelled: what is held is given back.

        Raises TopicNotFound if the topic of the dead letters does not exist, UsageError if the
        broker does not support the plan, and PubSubError if it fails or cannot be reached.
        """
        async with Channels(
            self._url,
            service="redrive",
            topics=self._destinations.urls,
            metrics=Metrics(),
            open_driver=self._open_driver,
        ) as out:
            broker = urlsplit(self._source)._replace(path="", fragment="").geturl()
            async with aclosing(self._open_driver(broker)) as driver:
                await self._consume(driver, topic_of(self._source) or self._plan.channel, out)

    async def _consume(self, driver: Driver, topic: str, out: Channels) -> None:
        subscription = self._subscription(driver.capabilities, out)
        async with Subscriber(
            driver.receiver(topic, subscription.subscription, ordered=subscription.order != "none"),
            subscription,
            topic=topic,
            capabilities=driver.capabilities,
            metrics=Metrics(),
            on_settle=self._settled,
        ) as subscriber:
            running = asyncio.create_task(subscriber.run(), name="redrive")
            running.add_done_callback(lambda _: self._stirred.set())
            try:
                await self._until_over(running)
                trouble = subscriber.problem or subscriber.stall
            finally:
                await subscriber.drain(0)
                self._tell_unacked()
                await running
        if trouble:
            raise PubSubError(f"not all dead letters were received: {trouble}", transient=True)

    def _subscription(self, can: Capabilities, out: Channels) -> Subscription:
        """Return how dead letters are consumed. Raises UsageError where that cannot be."""
        plan = self._plan
        if can.positions and plan.match:
            raise UsageError(
                "this broker keeps positions: what does not match could not be skipped; redrive "
                "without a match"
            )

        # If nothing moves, order is not kept: a log would show the first of each partition only.
        moves = not (plan.dry_run or self._destinations.is_empty)

        async def handle(message: Message) -> None:
            self._at_work += 1
            self._stirred.set()
            try:
                await self._move(message, out)
            finally:
                self._at_work -= 1
                self._stirred.set()

        return Subscription(
            channel=plan.channel,
            subscription=plan.subscription,
            concurrency=min(_CONCURRENCY, self._most),
            order="partition" if can.positions and moves else "none",
            max_in_flight=self._most,
            max_in_flight_bytes=_HELD_BYTES,
            retry=RetryPolicy(),
            max_deliveries=1,
            dead_letter="",
            handler=handle,
            payload=None,
            name="redrive",
        )

    async def _until_over(self, running: asyncio.Task[None]) -> None:
        """Wait until enough is moved, until nothing has come for a while, or the engine ended."""
        while not running.done():
            if self.stopped and not (self._at_work or self._unacked):
                return
            self._stirred.clear()
            try:
                async with asyncio.timeout(self._plan.wait):
                    await self._stirred.wait()
            except TimeoutError:
                if not (self._at_work or self._stirred.is_set()):
                    return

    # One dead letter.

    async def _move(self, message: Message, out: Channels) -> None:
        """Publish a dead letter as it was; returning acks it."""
        if not self._is_wanted(message):
            self._hold(message)
        self._taken += 1
        if self._plan.dry_run:
            self._on_listed(message)
            self._hold(message)
        channel = self._plan.to or message.attributes.get("dl-source-topic")
        if not channel:
            self._fail(message, "it has no dl-source-topic; say where to publish it")
        if not self._destinations.allow(channel):
            self._hold(message)
        try:
            await out.publish(channel, revived(message, self._stamp))
        except Exception as error:  # noqa: BLE001 - whatever it is, the dead letter stays
            self._fail(message, f"it was not published to {cut(channel)!r}: {text_of(error)}")
        self._unacked.add(message)

    def _is_wanted(self, message: Message) -> bool:
        """Return whether a dead letter moves: not again, where its handler failed meanwhile."""
        attributes, match = message.attributes, self._plan.match
        if self.stopped or attributes.get(REDRIVEN_AT) == self._stamp:
            return False
        return any(match in attributes.get(name, "") for name in ("dl-reason", "dl-exception"))

    def _hold(self, message: Message) -> NoReturn:
        """Let a dead letter wait in place until the end."""
        self._held += 1
        self._held_bytes += size_of(message)
        raise Retry(after=math.inf, counted=False)

    def _fail(self, message: Message, reason: str) -> NoReturn:
        self._refused.add(message.id)
        self._on_failed(message, reason)
        self._hold(message)

    # Its settling.

    def _settled(self, message: Message, outcome: str, _: BaseException | None) -> None:
        """Count what the broker has confirmed."""
        if outcome == "ack":
            self.redriven += 1
            self._unacked.discard(message)
            self._stirred.set()
        elif outcome != "lost":
            self._returned.add(message.id)

    def _tell_unacked(self) -> None:
        """Report what has moved and may come again."""
        reason = "it was published, but not acked: the next run will publish it once more"
        for message in self._unacked:
            self._on_failed(message, reason)


def revived(message: Message, stamp: str) -> Message:
    """Return a dead letter as it was before, but for how often it was moved, and when."""
    attributes = {n: text for n, text in message.attributes.items() if not n.startswith("dl-")}
    count = min(_times(message.attributes.get(REDRIVEN, "")) + 1, _MOST_TIMES)
    return Message(
        message.topic,
        message.body,
        key=message.key,
        attributes={**attributes, REDRIVEN: str(count), REDRIVEN_AT: stamp},
    )


def _times(text: str) -> int:
    """Return the number in ``dl-redriven``, or 0 if it is none from 0 to a million.

    The attribute is the sender's: Python refuses to read a number of 5,000 digits, and ended here.
    """
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST_TIMES))
    return int(text) if is_number else 0
