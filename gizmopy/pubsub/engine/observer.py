"""Observe what happens to messages: the one place where metrics, callbacks and tracing attach.

A publisher or subscriber reports each event to its observers. ``Observers`` binds their methods
once, at start: an event that no observer overrides costs one call of an empty function, and the
two events of an attempt cost nothing at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, ClassVar, Literal

from gizmopy.pubsub.engine.outcome import OnSettle
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.error_text import shortened

logger = logging.getLogger("gizmopy.pubsub.observers")

PublishFailure = Literal["transient", "permanent", "oversize", "encode", "closed"]
"""Why a message was not published."""


class Observer:
    """Receive the events of publishers and subscribers; override the methods that you need.

    The engine calls them synchronously on the event loop, in the order of events. They must return
    quickly, and must not change a message. An error that they raise is logged, the first of each
    method, and changes nothing for the message or the other observers.
    """

    never_raises: ClassVar[bool] = False
    """Whether to save the guard against errors; for the engine's own observers."""

    # A subscriber receives, handles and settles.

    def received(self, messages: Sequence[Message]) -> None:
        """Observe that a receive returned ``messages``; no handler has seen them yet."""

    def attempt_started(self, messages: Sequence[Message]) -> None:
        """Observe that a handler starts with one message, or with the messages of a batch.

        This runs in the handler's own context: context variables that are set here are visible to
        the handler and to ``attempt_ended``, and to no other handler.
        """

    def attempt_ended(
        self, messages: Sequence[Message], errors: Sequence[BaseException | None]
    ) -> None:
        """Observe that the handler ended; ``errors`` has None for each message it handled."""

    def attempts_timed(self, waits: Sequence[float], seconds: Sequence[float]) -> None:
        """Observe how long attempts took.

        ``waits`` holds the seconds from the receipt to the first attempt of each message,
        ``seconds`` how long each attempt ran. One call reports many attempts, because a call for
        each message would cost several percent of its handling.
        """

    def retried(self, message: Message, error: BaseException, delay: float) -> None:
        """Observe that a failed message is tried again after ``delay`` seconds."""

    def postponed(self, message: Message, delay: float) -> None:
        """Observe that a message is tried again after ``delay`` seconds, without a failure."""

    def dead_lettered(self, message: Message, reason: str, error: BaseException) -> None:
        """Observe that the broker confirmed the dead letter of ``message``.

        ``reason`` is ``"rejected"``, ``"undecodable"`` or ``"exhausted"``.
        """

    def stuck(self, message: Message, reason: str, error: BaseException) -> None:
        """Observe that a message should be dead-lettered, but there is no dead-letter channel."""

    def settled(
        self, messages: Sequence[Message], outcome: str, error: BaseException | None
    ) -> None:
        """Observe that the broker confirmed the outcome of ``messages``; see ``OnSettle``."""

    def settle_failed(self, message: Message, outcome: str, error: Exception) -> None:
        """Observe that the broker did not settle ``message``: it will deliver it again."""

    def stale(self, message: Message) -> None:
        """Observe that a handler ended after the lease or the partition of its message was lost."""

    def lost(self, message: Message) -> None:
        """Observe that the broker took back a message, which it will deliver again."""

    def lease_extended(self, message: Message, result: Literal["ok", "failed", "capped"]) -> None:
        """Observe an extension of a lease.

        ``"failed"``: the broker refused it. ``"capped"``: the message is as old as the broker
        allows, so the engine did not ask.
        """

    def loop_blocked(self, seconds: float) -> None:
        """Observe that the event loop was blocked for longer than the broker waits.

        Messages that were handled meanwhile are delivered again, also those that were settled.
        """

    # A publisher publishes.

    def published(self, message: Message, seconds: float) -> None:
        """Observe that the broker confirmed ``message``, ``seconds`` after the call of publish."""

    def publish_failed(self, topic: str, kind: PublishFailure) -> None:
        """Observe that a message was not published to ``topic``."""


class Observers(Observer):
    """Report each event to the observers that override its method, in the order given."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        for event in _EVENTS:
            if methods := [_method(each, event) for each in observers if _overrides(each, event)]:
                # With one observer, its method itself: no call in between.
                setattr(self, event, methods[0] if len(methods) == 1 else _each(methods))
        self.watch_attempts = any(
            _overrides(each, event)
            for each in observers
            for event in ("attempt_started", "attempt_ended")
        )
        """Whether the two events of an attempt must be reported."""


class SettleCallback(Observer):
    """Call an ``OnSettle`` function for each message that is settled or lost."""

    def __init__(self, on_settle: OnSettle) -> None:
        self._on_settle = on_settle

    def settled(
        self, messages: Sequence[Message], outcome: str, error: BaseException | None
    ) -> None:
        """Call the function for each message."""
        for message in messages:
            self._on_settle(message, outcome, error)

    def lost(self, message: Message) -> None:
        """Call the function with the outcome ``"lost"``."""
        self._on_settle(message, "lost", None)


_EVENTS = [name for name, value in vars(Observer).items() if isinstance(value, FunctionType)]


def _overrides(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Observer, event)


def _method(observer: Observer, event: str) -> Callable[..., None]:
    """Return a method of an observer, guarded: an error of it would end the subscriber."""
    method: Callable[..., None] = getattr(observer, event)
    if observer.never_raises:
        return method
    has_failed = False

    def guarded(*args: Any) -> None:
        nonlocal has_failed
        try:
            method(*args)
        except Exception as error:
            if not has_failed:
                has_failed = True
                name = f"{type(observer).__qualname__}.{event}"
                logger.error(
                    "the observer %s failed; its next errors are not logged",
                    name,
                    exc_info=shortened(error),
                )

    return guarded


def _each(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """Return a function that calls each of ``methods``."""

    def report(*event: Any) -> None:
        for method in methods:
            method(*event)

    return report
