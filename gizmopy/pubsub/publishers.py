"""The publishers of a service's channels: each connects by itself, until its broker is reached.

The first contact with a broker behaves as any later one. A broker that cannot be reached is tried
again, for as long as the driver's ``delivery_timeout`` and the caller's deadline allow; the failure
is counted, and shown by the health check. Channels connect independently of each other: a broker
that hangs does not delay the publishers of another one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from itertools import count
from time import perf_counter
from typing import Any

from gizmopy._aio import cancel_and_wait
from gizmopy.config.channel_names import channel_key
from gizmopy.errors import (
    DriverNotInstalled,
    GizmoError,
    PubSubError,
    StartError,
    TopicNotFound,
    UnknownScheme,
    UsageError,
)
from gizmopy.observe.context import time_left
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.driver import Results
from gizmopy.pubsub.engine.metrics import PublisherMetrics
from gizmopy.pubsub.publisher import Publisher, check_several
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.durations import DurationLike
from gizmopy.untrusted.error_text import describe_error, text_of

logger = logging.getLogger(__name__)

_BACKOFF = RetryPolicy(base=0.2, cap=5.0)
_START_SECONDS = 10.0
"""The longest time that a start waits for the first answer of a broker."""
_ANSWER_SECONDS = 1.0
"""The time before the caller's deadline at which waiting ends, so that the caller can answer."""
_CLOSE_SECONDS = 5.0
"""The longest time to flush all publishers, and to close all drivers."""
_IDLE_SECONDS = 600.0
"""A publisher that nobody has used for so long, or up to twice as long, is closed."""
_LAST_CALL_SECONDS = 1.0
"""The time that a call has to begin after a publisher is no longer given to others."""


class ConnectingPublisher:
    """The publisher of one channel, and the task that connects it.

    ``timeout`` is how many seconds a caller waits for the connection at most. ``sleep`` waits
    between two attempts.
    """

    def __init__(
        self,
        channel: str,
        publisher: Publisher,
        *,
        timeout: float,
        sleep: Callable[[float], Awaitable[None]],
        on_connected: Callable[[str, Publisher], None],
    ) -> None:
        self.channel = channel
        self.publisher = publisher
        self.is_connected = False
        self.last_count: float | None = None
        """How often its topic was published to when this was last looked at."""
        self._timeout = timeout
        self._sleep = sleep
        self._on_connected = on_connected
        self._problem = ""
        """Why the last attempt failed."""
        self._task: asyncio.Task[None] | None = None
        self._first_failure: asyncio.Future[None] | None = None
        self._started_at = 0.0
        self._order = asyncio.Lock()
        self._waiting = 0
        """Callers of ``connect`` that have not gone on yet."""

    @property
    def problem(self) -> str:
        """Why nothing can be published now; empty if all is well."""
        if self.is_connected:
            return self.publisher.problem
        if not self._problem and self._task is not None:
            seconds = perf_counter() - self._started_at
            if seconds > self.publisher.stall:
                return f"the broker has not answered for {seconds:.0f} s"
        return self._problem

    def is_unused(self) -> bool:
        """Return whether nothing was published since the last call of this, and nothing waits."""
        publisher = self.publisher
        before, self.last_count = self.last_count, publisher.count
        is_waited_for = self._waiting or publisher.is_busy or not self.is_connected
        # A sender within the process holds no socket.
        return before == self.last_count and not (is_waited_for or publisher.is_process_local)

    async def begin(self) -> None:
        """Make one attempt to connect; if the broker is unreachable, go on in the background.

        Raises the error of an attempt that no retry can help.
        """
        task = self._connecting()
        assert self._first_failure is not None
        await asyncio.wait(
            (task, self._first_failure),
            timeout=_START_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if task.done():
            task.result()

    async def connect(self) -> None:
        """Wait until the publisher is connected.

        Raises a transient PubSubError if that takes too long, and any error of an attempt that no
        retry can help.
        """
        task, seconds = self._connecting(), _within_deadline(self._timeout)
        self._waiting += 1
        try:
            # One after the other, so that the messages of a key are sent in the order of the calls.
            async with asyncio.timeout(seconds), self._order:
                # Not `await task`: all callers share it; one that is cancelled must not cancel it.
                await asyncio.wait((task,))
        except TimeoutError:
            reason = self.problem or self._problem or "its broker has not answered"
            raise PubSubError(
                f"channel {self.channel!r} is not connected after {seconds:.1f} s, and nothing was "
                f"sent: {reason}",
                transient=True,
            ) from None
        finally:
            self._waiting -= 1
            self._tell_connected()
        if task.cancelled():
            raise UsageError(f"the publisher of {self.channel!r} is closed; publish before that")
        task.result()

    def _connecting(self) -> asyncio.Task[None]:
        if self._task is None:
            self._started_at = perf_counter()
            self._first_failure = asyncio.get_running_loop().create_future()
            name = f"connect the publisher of {self.channel}"
            self._task = asyncio.create_task(self._connect(), name=name)
            self._task.add_done_callback(self._ended)
        return self._task

    async def _connect(self) -> None:
        for attempt in count(1):
            try:
                await self.publisher.connect()
            except PubSubError as error:
                self._note(error)
                if not error.transient:
                    raise
                if attempt == 1:
                    logger.warning("cannot reach the broker of %r yet: %s", self.channel, error)
            else:
                break
            await self._sleep(_BACKOFF.delay(attempt, random.random))
        self._problem, self.is_connected = "", True
        self._tell_connected()

    def _tell_connected(self) -> None:
        """Let later callers publish without ``connect``, once no earlier caller waits in it."""
        if self.is_connected and not self._waiting:
            self._on_connected(self.channel, self.publisher)

    def _note(self, error: BaseException) -> None:
        self._problem = text_of(error) or describe_error(error)
        if self._first_failure is not None and not self._first_failure.done():
            self._first_failure.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """After an error the next caller tries again."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._note(error)
            self._task = None

    async def aclose(self) -> None:
        """End the attempts, then flush and close the publisher."""
        if self._task is not None:
            await cancel_and_wait([self._task])
        await self.publisher.aclose()


class Publishers:
    """Hold the publishers of a service by channel.

    ``make`` returns a publisher for a channel, which is not connected yet, and the seconds that its
    caller may wait for the connection; it raises a GizmoError if the channel has no driver.
    ``declared`` are the channels that the service declares, with the type of their values or None.
    """

    def __init__(
        self,
        service: str,
        declared: Mapping[str, Any],
        make: Callable[[str], tuple[Publisher, float]],
        *,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.connected: dict[str, Publisher] = {}
        """The publishers whose broker was reached."""
        self.only_declared = False
        """Whether publishing to a channel that is not declared raises, if the service declares any.
        """
        self._service = service
        self._declared = declared
        self._make = make
        self._metrics = metrics
        self._sleep = sleep
        self._all: dict[str, ConnectingPublisher] = {}
        self._retiring: set[ConnectingPublisher] = set()
        """Those that are being closed because nobody used them."""
        self._closing_idle: asyncio.Task[None] | None = None
        self._unusable: dict[str, str] = {}
        """Why a channel has no publisher."""
        self._needed: set[str] = set()
        """The channels that the start has connected."""
        self._known = set(declared)
        """Channels that are declared, hold dead letters, or were warned of."""
        self._is_closed = False

    def start(self) -> None:
        """Close publishers that are idle, until ``aclose``."""
        self._closing_idle = asyncio.create_task(self._keep_closing_idle(), name="idle publishers")

    async def _keep_closing_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_SECONDS)
            await self.close_idle()

    async def close_idle(self) -> None:
        """Close the publishers that nobody has used since the last call of this.

        The next message to such a channel connects it again. Without this, a service that publishes
        to a topic for each customer keeps a socket for each of them.
        """
        idle = [each for each in self._all.values() if each.is_unused()]
        for each in idle:
            del self._all[each.channel], self.connected[each.channel]
        if idle:
            self._retiring.update(idle)
            # A call that has the publisher already, but has not begun, still finds it open.
            await self._sleep(_LAST_CALL_SECONDS)
            await self._close(idle)
            self._retiring.difference_update(idle)

    async def _close(self, publishers: Collection[ConnectingPublisher]) -> None:
        await close_all(
            (f"the publisher of channel {each.channel!r}", each.aclose()) for each in publishers
        )

    async def connect_all(self, dead_letters: Collection[str]) -> None:
        """Connect the declared channels and ``dead_letters``, all at the same time.

        An unreachable broker is tried again in the background. Raises StartError, which names the
        channel and the remedy, if a retry cannot help.
        """
        self._needed = {*self._declared, *dead_letters}
        self._known |= self._needed
        async with asyncio.TaskGroup() as group:
            beginning = [
                group.create_task(self._begin(channel, is_dead_letter=channel in dead_letters))
                for channel in sorted(self._needed)
            ]
        for error in filter(None, [each.result() for each in beginning]):
            raise error

    async def _begin(self, channel: str, *, is_dead_letter: bool) -> Exception | None:
        try:
            await self._get(channel).begin()
        except StartError as error:
            return error
        except GizmoError as error:
            start_error = _start_error(channel, error, is_dead_letter=is_dead_letter)
            start_error.__cause__ = error
            return start_error
        return None

    async def publish(
        self,
        channel: str,
        value: object,
        key: str | None,
        attributes: Mapping[str, str] | None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> None:
        """Connect the publisher of ``channel``, then publish ``value``."""
        connecting = self._get(channel)
        # Before the wait: a value that cannot be sent is refused at once, as it is later.
        message = connecting.publisher.compose(value, key, attributes)
        connecting.publisher.postpone(message, delay, at)
        try:
            await connecting.connect()
        except Exception as error:
            connecting.publisher.count_unsent(error)
            raise
        await connecting.publisher.publish(message)

    async def publish_many(
        self,
        channel: str,
        values: Iterable[Any],
        key: Callable[[Any], str | None] | str | None,
        attributes: Mapping[str, str] | None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> Results:
        """Connect the publisher of ``channel``, then publish ``values``."""
        check_several(values)
        connecting = self._get(channel)
        try:
            await connecting.connect()
        except PubSubError as error:
            results = [error for _ in values]
            for _ in results:
                connecting.publisher.count_unsent(error)
            return results
        publisher = connecting.publisher
        return await publisher.publish_many(
            values, key=key, attributes=attributes, delay=delay, at=at
        )

    def _get(self, channel: str) -> ConnectingPublisher:
        """Return the publisher of a channel. Raises a GizmoError if it has no driver."""
        if self._is_closed:
            raise UsageError(f"the channels of {self._service} are closed; publish before that")
        if channel in self._all:
            return self._all[channel]
        self._check_declared(channel)
        try:
            publisher, timeout = self._make(channel)
        except GizmoError as error:
            self._unusable[channel] = text_of(error)
            PublisherMetrics(self._metrics, channel).publish_failed(channel, "permanent")
            raise
        self._unusable.pop(channel, None)
        self._all[channel] = ConnectingPublisher(
            channel,
            publisher,
            timeout=timeout,
            sleep=self._sleep,
            on_connected=self.connected.__setitem__,
        )
        return self._all[channel]

    def _check_declared(self, channel: str) -> None:
        """Warn once of a channel that the service publishes to and does not declare."""
        if not self._declared or channel in self._known:
            return
        reason = f"{self._service} publishes to {channel!r}, which its publishes= does not declare"
        if self.only_declared:
            raise UsageError(f"{reason}; add it")
        self._known.add(channel)
        logger.warning("%s; add it, so that the start checks and connects it", reason)

    def unpublished(self) -> list[str]:
        """Return a line for each channel to which nothing can be published at present."""
        problems = {channel: each.problem for channel, each in self._all.items()} | self._unusable
        return [f"{channel}: {problem}" for channel, problem in problems.items() if problem]

    def unreached(self) -> list[str]:
        """Return a line for each channel of the start whose broker has never been reached."""
        return [
            f"{channel}: {each.problem or 'the broker has not answered'}"
            for channel, each in self._all.items()
            if channel in self._needed and not each.is_connected
        ]

    async def aclose(self) -> None:
        """Flush and close every publisher."""
        self._is_closed = True
        if self._closing_idle is not None:
            await cancel_and_wait([self._closing_idle])
        publishers, self._all = self._all, {}
        self.connected.clear()
        await self._close([*publishers.values(), *self._retiring])


def _within_deadline(seconds: float) -> float:
    """Return ``seconds``, or less if the caller's deadline comes first."""
    left = time_left()
    if left is None:
        return seconds
    return min(seconds, max(0.0, left - min(_ANSWER_SECONDS, left / 10)))


def _start_error(channel: str, error: GizmoError, *, is_dead_letter: bool) -> StartError:
    """Return the error of a channel that can never be published to, with the remedy."""
    variable = f"GIZMO_TOPIC_{channel_key(channel)}"
    if isinstance(error, (UnknownScheme, DriverNotInstalled)):
        return StartError(
            f"channel {channel!r}: {error}; set GIZMO_PUBSUB_URL or {variable} to another URL"
        )
    remedy = ""
    if isinstance(error, TopicNotFound):
        remedy = f"; create it, or set {variable} to another one"
    if is_dead_letter:
        text = f"cannot publish to the dead-letter channel {channel!r}: {error}{remedy}"
    else:
        text = f"cannot publish to channel {channel!r}: {error}{remedy}"
    return StartError(text)


async def close_all(closings: Iterable[tuple[str, Awaitable[None]]]) -> None:
    """Close things side by side, so that the slowest one alone decides how long it takes."""
    async with asyncio.TaskGroup() as group:
        for name, closing in closings:
            group.create_task(_close(name, closing))


async def _close(name: str, closing: Awaitable[None]) -> None:
    """Await ``closing``; log an error, so that the next thing is closed too."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await closing
    except Exception as error:  # noqa: BLE001 - logged, see above
        logger.warning("closing %s failed: %s", name, describe_error(error))
