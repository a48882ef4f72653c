"""Handle failures: retry in place, give back to the broker, or publish a dead letter.

A failed message is never skipped, and never dropped silently.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gizmopy._aio import cancel_and_wait
from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.engine.dead_letter import DeadLetter
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.phase import Lifecycle, Phase
from gizmopy.pubsub.engine.retry_decision import Action, decide, retries_in_place
from gizmopy.pubsub.engine.turns import Turns
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.text import cut

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Start a task that ends the subscriber if it fails."""


class FailureHandler:
    """Carry out what ``decide`` says about messages that failed."""

    def __init__(
        self,
        subscription: Subscription,
        capabilities: Capabilities,
        turns: Turns,
        lifecycle: Lifecycle,
        events: Observer,
        *,
        dead_letter: DeadLetter | None,
        sleep: Callable[[float], Awaitable[None]],
        spawn: Spawn,
    ) -> None:
        self._subscription = subscription
        self._capabilities = capabilities
        self._turns = turns
        self._failures = turns.failures
        self._lifecycle = lifecycle
        self._events = events
        self._publish_dead_letter = dead_letter
        self._sleep = sleep
        self._spawn = spawn
        self._retries_in_place = retries_in_place(subscription, capabilities)
        self._waiting: dict[Message, asyncio.Task[None]] = {}
        """The messages that wait to be handled again, or to be given back after a delay."""

    async def handle(self, message: Message, error: BaseException) -> None:
        """Handle the failure of a message whose handler raised ``error``."""
        decision = decide(message, error, self._subscription, self._capabilities, random.random)
        delay = decision.delay
        if decision.action is Action.POSTPONE:
            self._events.postponed(message, delay)
            self._failures.add_postponed(message)
            message.attempt -= 1
            self._retry_here(message, delay)
            return
        self._failures.add(message)
        if decision.action is Action.DEAD_LETTER:
            await self._dead_letter(message, decision.reason, error, delay)
            return
        self._events.retried(message, error, delay)
        if decision.action is Action.RETRY:
            self._failures.log_retry(message, error, delay)
            self._retry_here(message, delay)
        else:
            self._failures.log_redelivery(message, error, delay)
            self._retry_later(message, error, delay)

    # Retry.

    def _retry_later(self, message: Message, error: BaseException, delay: float) -> None:
        """Have the message handled again after ``delay``: by the broker's redelivery if it can."""
        if self._retries_in_place:
            self._retry_here(message, delay)
        elif self._capabilities.native_delay or self._lifecycle.phase >= Phase.FINISHING:
            self._turns.nack(message, error, delay)
        else:
            # This broker would deliver it again at once, so it waits here before it goes back.
            self._after(delay, message, lambda: self._turns.nack(message, error, 0.0))

    def _retry_here(self, message: Message, delay: float) -> None:
        """Keep the message, its lane and its lease, and hand it to a worker after ``delay``."""
        if self._lifecycle.phase >= Phase.FINISHING:
            self._turns.release(message)
        else:
            self._after(delay, message, lambda: self._turns.ready.put(message))

    def _after(self, delay: float, message: Message, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await self._sleep(delay)
            del self._waiting[message]
            action()

        self._waiting[message] = self._spawn(wait(), f"retry {cut(message.id)}")

    def cancel_retry(self, message: Message) -> bool:
        """Return whether ``message`` waits for a retry; if so, it no longer does."""
        if (waiting := self._waiting.pop(message, None)) is None:
            return False
        waiting.cancel()
        return True

    def waiting(self) -> list[Message]:
        """Return the messages that wait for a retry."""
        return list(self._waiting)

    async def cancel_retries(self, grace: float) -> None:
        """Cancel all retries, and wait at most ``grace`` seconds for their tasks."""
        tasks = list(self._waiting.values())
        self._waiting.clear()
        await cancel_and_wait(tasks, grace)

    # Dead letters.

    async def _dead_letter(
        self, message: Message, reason: str, error: BaseException, delay: float
    ) -> None:
        """Publish the dead letter; ack the message only once the broker has confirmed that."""
        if self._publish_dead_letter is None:
            if self._retries_in_place:
                self._failures.stuck.add(message)
            self._events.stuck(message, reason, error)
            self._failures.log_stuck(message, reason, error)
            self._retry_later(message, error, delay)
            return
        # Publish, then ack. In the opposite order, a crash in between would lose the message; in
        # this order it is dead-lettered twice.
        try:
            # It is made inside the try: if it cannot be made, the message is kept as well.
            await self._publish_dead_letter(self._failures.as_dead_letter(message, reason, error))
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - it is retried
            self._keep(message, error, delay, failure)
        else:
            self._events.dead_lettered(message, reason, error)
            self._failures.log_dead_letter(message, reason, error)
            self._turns.ack(message, error)

    def _keep(
        self, message: Message, error: BaseException, delay: float, failure: BaseException
    ) -> None:
        """Keep a message whose dead letter was not published because of ``failure``."""
        if self._lifecycle.phase >= Phase.CANCELLING:
            self._turns.stop(message)
        elif message not in self._turns.in_flight:
            self._turns.end_stale(message)
        else:
            self._failures.log_dead_letter_failed(message, error, failure)
            self._retry_later(message, error, delay)
