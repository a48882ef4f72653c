"""Faults in the engine, which a check then runs on a correct driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Publisher, Receiver, Subscriber
from gizmopy.pubsub.driver import Limits, Results
from gizmopy.pubsub.engine.loop_watch import LoopWatch
from gizmopy.pubsub.engine.waiting_room import WaitingRoom
from gizmopy.pubsub.handlers import BatchResults

NO_LIMITS = Limits(batch_messages=10_000)

Plant = Callable[[pytest.MonkeyPatch], None]
"""Plants a fault for the time of a test."""


def sound(patch: pytest.MonkeyPatch) -> None:
    """Plant nothing."""


def subscriber(
    *,
    options: dict[str, Any] | None = None,
    capabilities: dict[str, Any] | None = None,
    receiver: Callable[[Receiver], Any] = lambda inner: inner,
    dead_letter: Callable[[Any], Any] = lambda publish: publish,
    handler: Callable[[Any], Any] = lambda handle: handle,
) -> Plant:
    """Return a Plant of a subscriber that changes its arguments."""

    def make(end: Receiver, declared: Any, **given: Any) -> Subscriber:
        declared = replace(declared, handler=handler(declared.handler), **options or {})
        given["capabilities"] = replace(given["capabilities"], **capabilities or {})
        given["dead_letter"] = dead_letter(given["dead_letter"])
        return Subscriber(receiver(end), declared, **given)

    return lambda patch: patch.setattr("pubsubtest.conformance.context.Subscriber", make)


def handler_that(change: Callable[[BaseException], BaseException | None]) -> Plant:
    """Return a Plant of a subscriber that replaces the errors of its handler."""

    def changing(handle: Callable[[Message], Awaitable[None]]) -> Any:
        async def handler(message: Message) -> None:
            try:
                await handle(message)
            except BaseException as error:  # noqa: BLE001 - that is the fault
                changed = change(error)
                if changed is not None:
                    raise changed from None

        return handler

    return subscriber(handler=changing)


def unconfirmed(publish: Any) -> Any:
    """Return a ``publish`` that hides the failure of a dead letter."""

    async def record_dead_letter(message: Message) -> None:
        try:
            await publish(message)
        except PubSubError:
            pass

    return record_dead_letter


async def all_handled(messages: Sequence[Message]) -> BatchResults:
    """Report all messages of a batch as handled."""
    return [None] * len(messages)


class CancellingReceiver:
    """Cancel a pending receive on close."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self._pending: asyncio.Future[Sequence[Message]] | None = None
        self.connect = inner.connect
        self.ack = inner.ack
        self.nack = inner.nack
        self.extend = inner.extend
        self.status = inner.status

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        self._pending = asyncio.ensure_future(self._inner.receive(limit, wait))
        await asyncio.wait((self._pending,))
        return [] if self._pending.cancelled() else self._pending.result()

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.wait((self._pending,))
        await self._inner.aclose()


def watches_no_loop(patch: pytest.MonkeyPatch) -> None:
    """Plant an engine that does not look at the lateness of its loop."""

    async def run(_: LoopWatch) -> None: ...

    patch.setattr(LoopWatch, "run", run)


def shared_contexts(patch: pytest.MonkeyPatch) -> None:
    """Run all handlings in one context."""
    context = copy_context()
    patch.setattr("gizmopy.pubsub.engine.worker.copy_context", lambda: context)


def counts_those_that_wait(patch: pytest.MonkeyPatch) -> None:
    """Let messages that wait count as messages in flight."""
    for method in ("enter", "leave"):
        patch.setattr(WaitingRoom, method, lambda room, message: None)


def keeps_changes(patch: pytest.MonkeyPatch) -> None:
    """Let the next attempt see what the handler has changed."""
    patch.setattr(Message, "restore", lambda message: None)


def ignores_pauses(patch: pytest.MonkeyPatch) -> None:
    """Go on while the subscription is paused."""
    patch.setattr(Subscriber, "pause", lambda _: None)


def publisher(kind: type[Publisher]) -> Plant:
    """Return a Plant of a publisher."""
    return lambda patch: patch.setattr("pubsubtest.conformance.context.Publisher", kind)


class AllOrNothing(Publisher):
    """Fail all values if one of them is invalid."""

    async def publish_many(self, values: Iterable[Any], **options: Any) -> Results:
        given = list(values)
        if any(type(value) is object for value in given):
            return [PubSubError("one of them is bad", transient=False)] * len(given)
        return await super().publish_many(given, **options)


class ClosesNothing(Publisher):
    """Publish after aclose."""

    async def aclose(self, timeout: float = 1.0) -> None:
        pass


class ForwardsBodies(Publisher):
    """Publish the body of a message, without its key and attributes."""

    async def publish(self, value: object, **options: Any) -> None:
        await super().publish(value.body if isinstance(value, Message) else value, **options)


def forgets_requests(patch: pytest.MonkeyPatch) -> None:
    """Publish messages without the id of the request."""
    patch.setattr(Publisher, "_with_context", lambda _, attributes: attributes)


class Hasty(Publisher):
    """Ignore delays."""

    async def publish(self, value: object, **options: Any) -> None:
        await super().publish(value, **(options | {"delay": None, "at": None}))


class Unlimited(Publisher):
    """Ignore the limits of the broker."""

    async def connect(self) -> None:
        await super().connect()
        self._batcher.limit(NO_LIMITS)

    def compose(self, *given: Any) -> Message:
        stated, self.limits = self.limits, NO_LIMITS
        try:
            return super().compose(*given)
        finally:
            self.limits = stated
