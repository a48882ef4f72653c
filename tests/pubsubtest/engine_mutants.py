"""Faults in the engine: what a bench runs on a sound driver, with one promise broken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Message, Publisher, Receiver, Subscriber
from gizmopy.pubsub.driver import Results
from gizmopy.pubsub.handlers import BatchResults

Plant = Callable[[pytest.MonkeyPatch], None]
"""Plants a fault, for as long as a test lasts."""


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
    """Return what plants a subscriber that changes what it is given."""

    def make(end: Receiver, declared: Any, **given: Any) -> Subscriber:
        declared = replace(declared, handler=handler(declared.handler), **options or {})
        given["capabilities"] = replace(given["capabilities"], **capabilities or {})
        given["dead_letter"] = dead_letter(given["dead_letter"])
        return Subscriber(receiver(end), declared, **given)

    return lambda patch: patch.setattr("pubsubtest.conformance.context.Subscriber", make)


def handler_that(change: Callable[[BaseException], BaseException | None]) -> Plant:
    """Return what plants a subscriber that takes what its handler raises for something else."""

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
    """Return what takes a dead letter that was refused for one that is buried."""

    async def bury(message: Message) -> None:
        try:
            await publish(message)
        except PubSubError:
            pass

    return bury


async def all_handled(messages: Sequence[Message]) -> BatchResults:
    """Take all of a batch for handled."""
    return [None] * len(messages)


class CancellingReceiver:
    """Cancels the receive that is pending when it is closed, as a careless engine might."""

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


def shared_contexts(patch: pytest.MonkeyPatch) -> None:
    """Let all handlings run in one context."""
    context = copy_context()
    patch.setattr("gizmopy.pubsub.engine.worker.copy_context", lambda: context)


def publisher(kind: type[Publisher]) -> Plant:
    """Return what plants a publisher."""
    return lambda patch: patch.setattr("pubsubtest.conformance.context.Publisher", kind)


class AllOrNothing(Publisher):
    """Of many, one that fails spoils the others."""

    async def publish_many(self, values: Iterable[Any], **options: Any) -> Results:
        given = list(values)
        if any(type(value) is object for value in given):
            return [PubSubError("one of them is bad", transient=False)] * len(given)
        return await super().publish_many(given, **options)


class ClosesNothing(Publisher):
    """Publishes after its close."""

    async def aclose(self, timeout: float = 1.0) -> None:
        pass


class Boundless(Publisher):
    """Heeds none of the broker's limits."""

    def __init__(self, *ends: Any, limits: Any, **options: Any) -> None:
        boundless = replace(limits, message_bytes=None, batch_bytes=None, batch_messages=10_000)
        super().__init__(*ends, limits=boundless, **options)
