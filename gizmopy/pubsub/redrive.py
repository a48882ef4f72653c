"""List dead letters, drop them, or move them back to the topics that they came from.

One handler on the engine does all three.

A dead letter that is not moved (its publish failed, it does not match, it is only listed) waits in
place, with its lease, until the end of the run, and is then given back: no run receives it twice,
unless its lease is lost. A broker that keeps positions cannot skip it, so the dead letters behind
it in its partition stay as well, and come first in the next run. Publishing it to the dead letters
again would lose its place and its date, and other readers of the dead letters would see it twice.

Delivery is at least once: a run that is killed between the publish and the ack leaves a dead letter
that was moved already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn, cast

from gizmopy.errors import PubSubError, Retry, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import registry as drivers
from gizmopy.pubsub.channels import Channels
from gizmopy.pubsub.destinations import DestinationResolver
from gizmopy.pubsub.driver import Browser, BrowsingDriver, Capabilities, Driver
from gizmopy.pubsub.engine.dead_letter import with_current_names, without_last_failure
from gizmopy.pubsub.engine.dead_letter_topics import AllowedTopics
from gizmopy.pubsub.engine.sizes import size_of
from gizmopy.pubsub.message import Message, merged
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription
from gizmopy.pubsub.wanted import Wanted
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.text import cut

REDRIVEN = "gizmo-dl-redriven"
"""The attribute that counts how often a message was redriven."""
REDRIVEN_AT = "gizmo-dl-redriven-at"
"""The attribute with the start of the run that moved the message last: a run's own mark."""

_MAX_COUNT = 1_000_000
"""The largest value of ``gizmo-dl-redriven``."""
_CONCURRENCY = 32
_FOREVER = 1e9
"""Seconds that a dead letter waits which is not moved: longer than any run."""
_MAX_HELD = 10_000
"""The most messages that wait in place for the end of the run."""
_MAX_HELD_BYTES = 256 * 1024 * 1024
"""The most bytes of memory that they may take."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which dead letters to move or drop, and where to move them."""

    channel: str
    """The channel with the dead letters."""
    subscription: str = "redrive"
    to: str = ""
    """The channel to publish to; empty: the topic that each dead letter came from, if allowed."""
    from_topics: frozenset[str] = frozenset()
    """Topics that may be published to, besides those that the settings name."""
    wanted: Wanted = field(default_factory=Wanted)
    """Which ones; without conditions: all."""
    limit: int | None = None
    """The most dead letters to take, including those that fail; None: all."""
    wait: float = 10.0
    """The run ends after this many seconds without a message."""
    dry_run: bool = False
    """List the dead letters instead of moving or dropping them."""
    drop: bool = False
    """Delete them instead of moving them."""


@dataclass
class _Progress:
    """The dead letters that a run has received."""

    settled: int = 0
    """Published or dropped, and acked."""
    started: int = 0
    """Wanted by the plan, and neither skipped nor moved before."""
    moving: int = 0
    """Being handled at present."""
    unacked: set[Message] = field(default_factory=set)
    """Published and not acked."""
    failed_ids: set[str] = field(default_factory=set)
    """Not published. Ids, since one that is given back may be received again before the end."""
    returned_ids: set[str] = field(default_factory=set)
    """Given back."""
    passed: int = 0
    """Looked at, and left where they are."""
    held: int = 0
    """Waiting in place until the end."""
    held_bytes: int = 0


class Redrive:
    """Move, list or drop dead letters by ``plan``, once.

    ``url``, ``topics`` and ``subscriptions`` are the destinations of channels, as for
    :class:`~gizmopy.pubsub.channels.Channels`. ``on_listed`` is called with each dead letter of a
    dry run, ``on_failed`` with each one that failed and the reason.

    Without ``plan.to`` a dead letter is moved only if its ``gizmo-dl-source-topic`` is a topic that
    ``url``, ``topics``, ``subscriptions`` or ``plan.from_topics`` name. The others stay, and
    ``refused`` counts them by topic.
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
        self._plan = plan
        self._url = url
        self._sources = DestinationResolver(url, topics, subscriptions)
        self._destinations = AllowedTopics(
            url, topics, subscriptions, also=plan.from_topics, to=plan.to
        )
        self._on_listed = on_listed
        self._on_failed = on_failed
        self._open_driver = open_driver
        self._run_mark = datetime.now(UTC).isoformat()
        self._progress = _Progress()
        self._changed = asyncio.Event()

    @property
    def settled(self) -> int:
        """Dead letters that were published or dropped, and acked."""
        return self._progress.settled

    @property
    def left(self) -> int:
        """Dead letters that were received and given back; more may not have been received."""
        returned = self._progress.returned_ids - self._progress.failed_ids
        return len(returned) + self._progress.passed

    @property
    def failed(self) -> int:
        """Dead letters that were not published, or published and not acked."""
        return len(self._progress.failed_ids) + len(self._progress.unacked)

    @property
    def refused(self) -> Mapping[str, int]:
        """How many dead letters stay, by topic, because publishing to that topic is not allowed.

        The key "" counts topics with names over 255 characters, and those after the first 100.
        """
        return self._destinations.refused

    @property
    def stopped(self) -> str:
        """Why the run ends before the last dead letter; empty if it does not."""
        if self._progress.started == self._plan.limit:
            return f"the limit of {self._plan.limit} is reached"
        if self._progress.held >= _MAX_HELD or self._progress.held_bytes >= _MAX_HELD_BYTES:
            return (
                f"{self._progress.held} messages with {self._progress.held_bytes} bytes were not "
                "moved, and a run holds no more"
            )
        return ""

    async def run(self) -> None:
        """Return when there is no more to move. If cancelled, give back all messages.

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
            channel, subscription = self._plan.channel, self._plan.subscription
            source = self._sources.for_consuming(channel, subscription)
            async with aclosing(self._open_driver(source.driver_url)) as driver:
                if driver.capabilities.can_browse:
                    name = self._sources.subscription_of(channel, subscription)
                    browser = cast(BrowsingDriver, driver).browser(source.topic, name)
                    await self._look_through(browser, out)
                else:
                    await self._consume(driver, source.topic, out)

    # With a browser, each dead letter is settled by itself.

    async def _look_through(self, browser: Browser, out: Channels) -> None:
        async with aclosing(browser):
            await browser.connect()
            try:
                async for batch in browser.browse():
                    await self._take(browser, batch, out)
                    if self.stopped:
                        return
            finally:
                self._report_unacked()

    async def _take(self, browser: Browser, batch: Sequence[Message], out: Channels) -> None:
        """Take the dead letters of a batch side by side, those of one key in their order."""
        lanes: dict[object, list[Message]] = {None: list(batch)} if self._plan.dry_run else {}
        for message in () if self._plan.dry_run else batch:
            lanes.setdefault(message if message.key is None else message.key, []).append(message)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._take_lane(lane, out)) for lane in lanes.values()]
        taken = [message for each in running for message in each.result()]
        if not taken:
            return
        for message, failure in zip(taken, await browser.settle(taken), strict=True):
            if failure is None:
                self._count_settled(message, "ack", None)
            elif message not in self._progress.unacked:
                self._progress.failed_ids.add(message.id)
                self._on_failed(message, f"it was not deleted: {text_of(failure)}")

    async def _take_lane(self, lane: Sequence[Message], out: Channels) -> list[Message]:
        """Move or drop dead letters one after the other; return those to settle."""
        taken = []
        for message in lane:
            try:
                await self._move(message, out)
            except Retry:  # it stays, and holds up nothing
                self._progress.held -= 1
                self._progress.held_bytes -= size_of(message)
                self._progress.passed += message.id not in self._progress.failed_ids
            else:
                taken.append(message)
        return taken

    # Without one, the engine consumes them.

    async def _consume(self, driver: Driver, topic: str, out: Channels) -> None:
        subscription = self._subscription(driver.capabilities, out)
        channel, name = subscription.channel, subscription.subscription
        receiver = driver.receiver(
            topic,
            self._sources.subscription_of(channel, name),
            ordered=subscription.order != "none",
        )
        async with Subscriber(
            receiver,
            subscription,
            topic=topic,
            capabilities=driver.capabilities,
            metrics=Metrics(),
            on_settle=self._count_settled,
        ) as subscriber:
            running = asyncio.create_task(subscriber.run(), name="redrive")
            running.add_done_callback(lambda _: self._changed.set())
            try:
                await self._wait_for_end(running)
                problem = subscriber.problem or subscriber.stall
            finally:
                await subscriber.drain(0)
                self._report_unacked()
                await running
        if problem:
            raise PubSubError(f"not all dead letters were received: {problem}", transient=True)

    def _subscription(self, can: Capabilities, out: Channels) -> Subscription:
        """Return the subscription to the dead letters. Raises UsageError if it is not possible."""
        plan = self._plan
        max_held = _MAX_HELD
        if plan.limit is not None and plan.wanted.is_all:
            max_held = min(_MAX_HELD, plan.limit)
        if can.positions and not plan.wanted.is_all and not plan.dry_run:
            raise UsageError(
                "this broker keeps positions, so messages that do not match cannot be skipped; "
                "take all, or list the ones that match (dry run)"
            )

        # If nothing is moved, order is not kept. Otherwise a dry run on a broker with positions
        # would list only the first message of each partition: it blocks those behind it.
        moves = not plan.dry_run and (plan.drop or not self._destinations.is_empty)

        async def handle(message: Message) -> None:
            self._progress.moving += 1
            self._changed.set()
            try:
                await self._move(message, out)
            finally:
                self._progress.moving -= 1
                self._changed.set()

        return Subscription(
            channel=plan.channel,
            subscription=plan.subscription,
            concurrency=min(_CONCURRENCY, max_held),
            order="partition" if can.positions and moves else "none",
            max_in_flight=max_held,
            max_in_flight_bytes=_MAX_HELD_BYTES,
            max_waiting=max_held,
            max_waiting_bytes=_MAX_HELD_BYTES,
            retry=RetryPolicy(),
            max_deliveries=1,
            dead_letter="",
            handler=handle,
            payload=None,
            name="redrive",
        )

    async def _wait_for_end(self, running: asyncio.Task[None]) -> None:
        """Wait until the limit is reached, no message has come for a while, or the engine ended."""
        while not running.done():
            if self.stopped and not (self._progress.moving or self._progress.unacked):
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(self._plan.wait):
                    await self._changed.wait()
            except TimeoutError:
                if not (self._progress.moving or self._changed.is_set()):
                    return

    # One dead letter.

    async def _move(self, message: Message, out: Channels) -> None:
        """Publish the message of a dead letter; the return acks the dead letter."""
        message.attributes = with_current_names(message.attributes)
        if not self._is_wanted(message):
            self._hold(message)
        self._progress.started += 1
        if self._plan.dry_run:
            self._on_listed(message)
            self._hold(message)
        if self._plan.drop:
            return
        channel = self._plan.to or message.attributes.get("gizmo-dl-source-topic")
        if not channel:
            self._fail(message, "it has no gizmo-dl-source-topic; name a channel to publish it to")
        if not self._destinations.allow(channel):
            self._hold(message)
        try:
            await out.publish(channel, restored(message, self._run_mark))
        except Exception as error:  # noqa: BLE001 - after any error the dead letter stays
            self._fail(message, f"it was not published to {cut(channel)!r}: {text_of(error)}")
        self._progress.unacked.add(message)

    def _is_wanted(self, message: Message) -> bool:
        """Return whether to take a dead letter.

        Not one that this run has moved: its handler has failed again in the meantime.
        """
        if self.stopped or message.attributes.get(REDRIVEN_AT) == self._run_mark:
            return False
        return self._plan.wanted(message)

    def _hold(self, message: Message) -> NoReturn:
        """Make a dead letter wait in place until the end."""
        self._progress.held += 1
        self._progress.held_bytes += size_of(message)
        raise Retry(after=_FOREVER, counted=False)

    def _fail(self, message: Message, reason: str) -> NoReturn:
        self._progress.failed_ids.add(message.id)
        self._on_failed(message, reason)
        self._hold(message)

    # Settling.

    def _count_settled(self, message: Message, outcome: str, _: BaseException | None) -> None:
        """Count the outcomes that the broker has confirmed."""
        if outcome == "ack":
            self._progress.settled += 1
            self._progress.unacked.discard(message)
            self._changed.set()
        elif outcome != "lost":
            self._progress.returned_ids.add(message.id)

    def _report_unacked(self) -> None:
        """Report the messages that were published and may be published again."""
        reason = "it was published, but not acked: the next run publishes it again"
        for message in self._progress.unacked:
            self._on_failed(message, reason)


def restored(message: Message, run_mark: str) -> Message:
    """Return the message of a dead letter, with the count and the mark of the redrive.

    A message that was dead-lettered twice is again the dead letter that it was after the first.
    """
    attributes = without_last_failure(message.attributes)
    count = min(_count(message.attributes.get(REDRIVEN, "")) + 1, _MAX_COUNT)
    return Message(
        message.topic,
        message.body,
        key=message.key,
        attributes=merged(attributes, {REDRIVEN: str(count), REDRIVEN_AT: run_mark}),
    )


def _count(text: str) -> int:
    """Return the number in ``gizmo-dl-redriven``, or 0 if it is not one from 0 to a million.

    The sender may choose the attribute, and Python raises an error on a number of 5,000 digits.
    """
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_COUNT))
    return int(text) if is_number else 0
