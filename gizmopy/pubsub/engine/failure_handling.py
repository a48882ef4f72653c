"""Handle failures: retry in place, give back to the broker, or publish a dead letter.

A failed message is never skipped, and never dropped silently.

None of this keeps a worker: a message that waits for its retry, or for the broker to confirm its
dead letter, is in the waiting room, and the worker handles others meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gizmopy._aio import cancel_and_wait
from gizmopy.errors import UsageError
from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.engine.dead_letter import DeadLetter, publish_dead_letter, will_not_pass
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.phase import EnginePhase, Lifecycle
from gizmopy.pubsub.engine.retry_decision import (
    Action,
    RetryDecision,
    decide,
    retries_in_place,
)
from gizmopy.pubsub.engine.turns import Turns
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import describe_error
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.failures")

_AFTER_OWN_FAILURE = 30.0
"""Seconds until a message is handled again whose failure could not be handled."""

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
        self.publishing: dict[Message, asyncio.Task[None]] = {}
        """The messages whose dead letter is being published."""
        self._subscription = subscription
        self._capabilities = capabilities
        self._turns = turns
        self._failures = turns.failures
        self._lifecycle = lifecycle
        self._events = events
        self._dead_letter = dead_letter
        self._sleep = sleep
        self._spawn = spawn
        self._retries_in_place = retries_in_place(subscription, capabilities)
        self._waiting: dict[Message, asyncio.Task[None]] = {}
        """The messages that wait to be handled again, or to be given back after a delay."""

    def handle(self, message: Message, error: BaseException) -> None:
        """Handle the failure of a message whose handler raised ``error``.

        Never raises: an error here would end the subscriber, and the same message every
        replacement of it.
        """
        try:
            self._carry_out(message, *self._decide(message, error))
        except Exception:
            logger.exception(
                "the failure of message %s of %s could not be handled; the message is kept, and "
                "handled again in %g s; please report this",
                cut(message.id),
                self._subscription.name,
                _AFTER_OWN_FAILURE,
            )
            is_kept = message in self._waiting or message in self.publishing
            if not is_kept and message not in self._turns.settler.pending():
                self._retry_later(message, error, _AFTER_OWN_FAILURE)

    def _decide(
        self, message: Message, error: BaseException
    ) -> tuple[RetryDecision, BaseException]:
        """Decide about a failure, also if ``error`` itself raises when it is looked at."""
        given = self._subscription, self._capabilities, random.random
        try:
            return decide(message, error, *given), error
        except Exception as failure:  # noqa: BLE001 - the error is the user's, and may do anything
            name = type(error).__name__
            error = UsageError(f"{name} was raised and is broken: {describe_error(failure)}")
            return decide(message, error, *given), error

    def _carry_out(self, message: Message, decision: RetryDecision, error: BaseException) -> None:
        delay = decision.delay
        if decision.action is Action.POSTPONE:
            self._events.postponed(message, delay)
            self._failures.add_postponed(message)
            message.attempt -= 1
            self._retry_here(message, delay)
            return
        self._failures.add(message)
        if decision.action is Action.DEAD_LETTER:
            self._to_dead_letter(message, decision.reason, error, delay)
            return
        self._events.retried(message, error, delay)
        if decision.action is Action.RETRY and not self._is_given_back(message):
            self._failures.log_retry(message, error, delay)
            self._retry_here(message, delay)
        else:
            self._failures.log_redelivery(message, error, delay)
            self._retry_later(message, error, delay)

    # Retry.

    def _is_given_back(self, message: Message) -> bool:
        """Return whether a message has to go back, because it finds little room to wait here.

        That counts a delivery, so a postponed message never goes back because there is no room:
        else an outage of a service would make dead letters.
        """
        may_go_back = self._capabilities.native_delay and not self._retries_in_place
        return may_go_back and self._turns.waiting.is_half_full(message)

    def _retry_later(self, message: Message, error: BaseException, delay: float) -> None:
        """Have the message handled again after ``delay``: by the broker's redelivery if it can."""
        if self._retries_in_place:
            self._retry_here(message, delay)
        elif self._capabilities.native_delay or self._lifecycle.phase >= EnginePhase.FINISHING:
            self._turns.nack(message, error, delay)
        else:
            # This broker would deliver it again at once, so it waits here before it goes back.
            self._after(delay, message, lambda: self._turns.nack(message, error, 0.0))

    def _retry_here(self, message: Message, delay: float) -> None:
        """Keep the message, its lane and its lease, and hand it to a worker after ``delay``."""
        # The next attempt sees the message as it came: else a middleware that decompresses the body
        # would decompress it again.
        message.restore()
        if self._lifecycle.phase >= EnginePhase.FINISHING:
            self._turns.release(message)
        else:
            self._after(delay, message, lambda: self._turns.again(message))

    def _after(self, delay: float, message: Message, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await self._sleep(delay)
            del self._waiting[message]
            self._turns.waiting.leave(message)
            action()

        self._turns.waiting.enter(message)
        self._waiting[message] = self._spawn(wait(), f"retry {cut(message.id)}")

    def cancel_retry(self, message: Message) -> bool:
        """Return whether ``message`` waits for a retry; if so, it no longer does."""
        if (waiting := self._waiting.pop(message, None)) is None:
            return False
        self._turns.waiting.leave(message)
        waiting.cancel()
        return True

    def waiting(self) -> list[Message]:
        """Return the messages that wait for a retry."""
        return list(self._waiting)

    async def cancel_retries(self, grace: float) -> None:
        """Cancel all retries, and wait at most ``grace`` seconds for their tasks."""
        tasks = list(self._waiting.values())
        for message in self._waiting:
            self._turns.waiting.leave(message)
        self._waiting.clear()
        await cancel_and_wait(tasks, grace)

    # Dead letters.

    def _to_dead_letter(
        self, message: Message, reason: str, error: BaseException, delay: float
    ) -> None:
        """Publish the dead letter in a task of its own, if there is a channel for it."""
        if self._dead_letter is None:
            self._keep_stuck(message, reason, error, delay, None)
            return
        self._turns.waiting.enter(message)
        publishing = self._publish(self._dead_letter, message, reason, error, delay)
        task = self._spawn(publishing, f"dead letter {cut(message.id)}")
        self.publishing[message] = task

        def end(_: asyncio.Task[None]) -> None:
            if message in self.publishing:  # it was cancelled before it began
                self._end_publishing(message)
                self._keep(message, reason, error, delay, asyncio.CancelledError())

        task.add_done_callback(end)

    async def _publish(
        self,
        publish: DeadLetter,
        message: Message,
        reason: str,
        error: BaseException,
        delay: float,
    ) -> None:
        """Publish the dead letter; ack the message only once the broker has confirmed that."""
        failure: BaseException | None = None
        # Publish, then ack. In the opposite order, a crash in between would lose the message; in
        # this order it is dead-lettered twice.
        try:
            # It is made inside the try: if it cannot be made, the message is kept as well.
            await publish_dead_letter(publish, self._failures.failure_of(message, reason, error))
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - it is retried
            failure = raised
        self._end_publishing(message)
        if failure is not None:
            self._keep(message, reason, error, delay, failure)
            return
        self._events.dead_lettered(message, reason, error)
        self._failures.log_dead_letter(message, reason, error)
        self._turns.ack(message, error)

    def _end_publishing(self, message: Message) -> None:
        del self.publishing[message]
        self._turns.waiting.leave(message)

    def _keep(
        self,
        message: Message,
        reason: str,
        error: BaseException,
        delay: float,
        failure: BaseException,
    ) -> None:
        """Keep a message whose dead letter was not published because of ``failure``."""
        if self._lifecycle.phase >= EnginePhase.CANCELLING:
            self._turns.stop(message)
        elif message not in self._turns.in_flight:
            self._turns.end_stale(message)
        elif will_not_pass(failure):
            self._keep_stuck(message, reason, error, delay, failure)
        else:
            self._failures.log_dead_letter_failed(message, error, failure)
            self._retry_later(message, error, delay)

    def _keep_stuck(
        self,
        message: Message,
        reason: str,
        error: BaseException,
        delay: float,
        failure: BaseException | None,
    ) -> None:
        """Keep a message that failed for good, and report it: it has no dead letter.

        ``failure`` is the reason; None if there is no channel for dead letters.
        """
        self._events.stuck(message, reason, error)
        self._failures.add_stuck(message, delay, stays=self._retries_in_place)
        self._failures.log_stuck(message, reason, error, failure)
        self._retry_later(message, error, delay)
