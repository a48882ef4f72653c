"""Stop handling after failures in a row, so that a service that is down can recover.

closed ── failures in a row ──→ open ── seconds ──→ half open: one trial at a time
  ↑                              ↑                      │
  └──────── it succeeds ─────────┼──────────────────────┤
                                 └────── it fails ──────┘
"""

from __future__ import annotations

import logging
import random as randomness
import time
from collections.abc import Callable

from gizmopy.errors import Reject, Retry, UndecodableMessage, UsageError, seconds_from
from gizmopy.pubsub.gravity import gravest
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.durations import DurationLike
from gizmopy.untrusted.error_text import describe_error

logger = logging.getLogger(__name__)

_SPREAD = 0.1
"""Messages that wait for the circuit are retried spread over this part of ``seconds``."""


def circuit_breaker(
    failures: int = 5,
    seconds: DurationLike = 30.0,
    *,
    clock: Callable[[], float] = time.monotonic,
    random: Callable[[], float] = randomness.random,
) -> MessageMiddleware:
    """After that many ``failures`` in a row, handle no message for ``seconds``; then try one.

    Meanwhile messages wait in place, and no attempt is counted. If the trial succeeds, the circuit
    closes; if it fails, it stays open for ``seconds`` more. Put ``timeout`` inside, so that a trial
    ends.

    Reject, UndecodableMessage, ``Retry(counted=False)`` and a cancellation say nothing about the
    service that the handler calls: they count neither as a failure nor as a success. Each handler
    has its own circuit. Raises UsageError on ``failures`` below 1 or ``seconds`` not above 0.
    """
    open_seconds = seconds_from("circuit_breaker(seconds=)", seconds)
    if failures < 1 or not open_seconds > 0:
        reason = "would never close; use 1 failure or more, and seconds above 0"
        raise UsageError(f"circuit_breaker({failures}, {seconds}) {reason}")

    def wrap(handler: Handler) -> Handler:
        circuit = _Circuit(failures, open_seconds, clock, random)

        async def handle(message: Message) -> None:
            trial = circuit.enter()
            try:
                await handler(message)
            except BaseException as error:
                if _is_neutral(error):
                    circuit.leave(trial)
                else:
                    circuit.fail(trial, message, error)
                raise
            circuit.succeed(trial, message)

        return handle

    return wrap


def _is_neutral(error: BaseException) -> bool:
    """Return whether an error says nothing about the service that the handler calls."""
    error = gravest(error)
    if isinstance(error, Retry):
        return not error.counted
    return isinstance(error, (Reject, UndecodableMessage)) or not isinstance(error, Exception)


class _Circuit:
    def __init__(
        self,
        failures: int,
        seconds: float,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._random = random
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False

    def enter(self) -> bool:
        """Return whether this handling is the trial. Raises Retry while the circuit is open."""
        if self._open_until is None:
            return False
        remaining = self._open_until - self._clock()
        if remaining > 0 or self._trying:
            after = max(0.0, remaining) + self._random() * self._seconds * _SPREAD
            raise Retry("the circuit is open", after=after, counted=False)
        self._trying = True
        return True

    def leave(self, trial: bool) -> None:
        """End a handling with neither success nor failure: another may be the trial."""
        if trial:
            self._trying = False

    def succeed(self, trial: bool, message: Message) -> None:
        self.leave(trial)
        if trial:
            self._open_until = None
            logger.info("the circuit of %s is closed: the trial succeeded", message.topic)
        if self._open_until is None:  # else this handling began before the circuit opened
            self._failures = 0

    def fail(self, trial: bool, message: Message, error: BaseException) -> None:
        self.leave(trial)
        if self._open_until is not None and not trial:
            return  # this handling began before the circuit opened
        self._failures += 1
        if self._failures >= self._limit:
            self._open_until = self._clock() + self._seconds
            logger.warning(
                "the circuit of %s is open for %g s after %d failures in a row, the last one: %s",
                message.topic,
                self._seconds,
                self._failures,
                describe_error(error),
            )
