"""Receive messages: one task, as much as there is room for, and again if the broker fails."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from time import perf_counter
from typing import cast

from gizmopy.errors import PubSubError, UndecodableMessage
from gizmopy.pubsub.driver import (
    Capabilities,
    PauseAllReceiver,
    PausingReceiver,
    Receiver,
    Revoke,
)
from gizmopy.pubsub.engine.phase import EnginePhase, Lifecycle
from gizmopy.pubsub.engine.turns import Turns
from gizmopy.pubsub.event_binding import EventBinding
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.error_text import text_of

logger = logging.getLogger("gizmopy.pubsub.pipeline")

_WAIT = 10.0
"""Seconds that a receive may wait for messages; closing the receiver ends it sooner."""
_STALLED_AFTER = 30.0
"""Seconds that a receive may take longer than it was asked to wait."""
_WORKS_AFTER = 1.0
"""Seconds that a receive must wait, after another one failed, to count as working."""
_RETRY = RetryPolicy(base=0.5)


class Intake:
    """Receive messages for one subscriber and hand them to ``admit``."""

    def __init__(
        self,
        receiver: Receiver,
        capabilities: Capabilities,
        turns: Turns,
        lifecycle: Lifecycle,
        *,
        name: str,
        max_in_flight: int,
        admit: Callable[[Sequence[Message]], None],
        revoke: Revoke,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.connected = False
        self._receiver = receiver
        # A receiver that wraps another one may not pass pauses on.
        can_pause = capabilities.can_pause and hasattr(receiver, "pause")
        self._pausing = cast(PausingReceiver, receiver) if can_pause else None
        self._in_flight = turns.in_flight
        self._in_flight.waiting.on_full = self._waiting_room_changed
        self._turns = turns
        self._lifecycle = lifecycle
        self._name = name
        self.paused = False
        """Whether the whole subscription is paused."""
        can_pause_all = capabilities.can_pause_all and hasattr(receiver, "pause_all")
        self._pausing_all = cast(PauseAllReceiver, receiver) if can_pause_all else None
        self._worthwhile = max_in_flight // 4
        """How much room is worth a receive while there are messages to handle."""
        self._admit = admit
        self._revoke = revoke
        self._sleep = sleep
        self._events = capabilities.events if capabilities.events.changes_received else None
        self._trouble = ""
        self._receiving_since: float | None = None

    async def connect(self) -> None:
        """Subscribe. Raises the driver's errors; ``run`` tries again after a transient one."""
        try:
            await self._receiver.connect(self._revoke)
        except PubSubError as error:
            self._trouble = f"cannot reach the broker yet: {error}"
            raise
        self.connected = True

    async def run(self) -> None:
        """Receive until the phase is STOPPED; retry transient errors with backoff.

        A pending receive is never cancelled before the receiver is closed: the broker may have
        handed out its messages already, and they would be lost on the way. Closing ends it.
        """
        failures = 0
        while self._lifecycle.phase < EnginePhase.STOPPED:
            try:
                if not self.connected:
                    await self._receiver.connect(self._revoke)
                    self.connected = True
                await self._receive_some()
                failures = 0
                self._trouble = ""
            except PubSubError as error:
                if not error.transient:
                    raise
                failures += 1
                self._trouble = f"receiving fails: {text_of(error)}"
                delay = _RETRY.delay(failures, random.random)
                logger.warning(
                    "receiving from %s failed, again in %.1f s: %s",
                    self._name,
                    delay,
                    text_of(error),
                )
                await self._sleep(delay)

    async def _receive_some(self) -> None:
        """Receive as many messages as there is room for, or wait for room."""
        busy = bool(self._turns.ready.messages)
        room = self._in_flight.room
        if self.paused and self._pausing_all is not None:
            # The receiver returns nothing, but its session goes on: Kafka's tells about rebalances
            # and errors in `receive` alone. So it is called without room, too.
            room = max(room, 1)
        # A receive of few messages costs as much as one of many, so a busy subscriber waits until
        # a quarter of its room is free.
        if room <= 0 or (busy and room < self._worthwhile) or self._must_wait:
            self._in_flight.changed.clear()
            await self._in_flight.changed.wait()
            return
        self._receiving_since = perf_counter()
        try:
            batch = await self._receiver.receive(room, _WAIT)
        finally:
            self._receiving_since = None
        # Once the receiver is closed, the driver has given back all that it held.
        if batch and self._lifecycle.phase < EnginePhase.CLOSED:
            if self._events is not None:
                translate_events(batch, self._events)
            self._admit(batch)

    # Pause the whole subscription.

    def pause(self) -> None:
        """Receive nothing until ``resume``; a pending receive may still return messages."""
        self.paused = True
        if self._pausing_all is not None:
            self._pausing_all.pause_all()

    def resume(self) -> None:
        """Receive again."""
        self.paused = False
        if self._pausing_all is not None:
            self._pausing_all.resume_all()
        self._in_flight.changed.set()

    # The waiting room.

    @property
    def _must_wait(self) -> bool:
        """Whether a pause or a full waiting room stops the intake, as the receiver cannot."""
        if self.paused:
            return self._pausing_all is None
        return bool(self._in_flight.waiting.full) and self._pausing is None

    def _waiting_room_changed(self, partition: Hashable, is_full: bool) -> None:
        """Pause or resume the partition whose waiting room is full or has room again."""
        if self._pausing is not None:
            change = self._pausing.pause if is_full else self._pausing.resume
            change((partition,))
        self._in_flight.changed.set()

    # Health.

    @property
    def is_receiving(self) -> bool:
        """Whether a receive is pending, rather than a wait for room or before a retry."""
        return self._receiving_since is not None

    @property
    def problem(self) -> str:
        """Why nothing is received now; empty if all is well.

        A receive that fails does so at once, so one that still waits is a sign that it works again.
        """
        since = self._receiving_since
        works = since is not None and perf_counter() - since > _WORKS_AFTER
        return "" if works else self._trouble

    @property
    def stall(self) -> str:
        """Why nothing will ever be received again; empty if all is well."""
        since = self._receiving_since
        if since is not None and perf_counter() - since > _WAIT + _STALLED_AFTER:
            return f"a receive has not returned for {perf_counter() - since:.0f} s"
        return ""


def translate_events(batch: Sequence[Message], binding: EventBinding) -> None:
    """Give CloudEvents the attributes that handlers see on every broker."""
    version, percent_encoded = f"{binding.prefix}specversion", binding.percent_encoded
    for message in batch:
        attributes = message._attributes  # not `attributes`, which makes a copy
        if version in attributes or (attributes and percent_encoded):
            try:
                message.attributes = binding.from_wire(attributes)
            except UndecodableMessage as error:
                message.unreadable = message.unreadable or str(error)
