"""What the mutants share: senders, receivers and drivers that delegate to a correct one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gizmopy.pubsub import Message, Receiver, Sender
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.driver import Limits, Results

LEASE = 0.4


class MutantSender:
    """A sender that passes everything on to ``inner``; a mutant overrides one method."""

    def __init__(self, inner: Sender) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class MutantReceiver:
    """A receiver that passes everything on to ``inner``; a mutant overrides one method."""

    def __init__(self, inner: Receiver) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class HoldingReceiver(MutantReceiver):
    """A receiver that keeps the messages that it has received in ``held``."""

    def __init__(self, inner: Receiver) -> None:
        super().__init__(inner)
        self.held: list[Message] = []

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Receive, and keep the messages."""
        batch = await self.inner.receive(limit, wait)
        self.held += batch
        return batch


class MutantDriver:
    """A broker, by default in memory, whose senders or receivers have a fault."""

    def __init__(
        self,
        sender: type[MutantSender] = MutantSender,
        receiver: type[MutantReceiver] = MutantReceiver,
        *,
        broker: Any = None,
        **capabilities: Any,
    ) -> None:
        self.inner = broker or MemoryDriver(lease=LEASE, message_bytes=100_000, batch_messages=50)
        self.capabilities = replace(self.inner.capabilities, **capabilities)
        self._states_limits = bool(capabilities)
        """Whether a limit is stated that the broker does not have."""
        self._sender = sender
        self._receiver = receiver

    def sender(self, topic: str) -> Any:
        sender: Any = self._sender(self.inner.sender(topic))
        if self._states_limits:
            sender.limits = lambda: Limits.of(self.capabilities)
        return sender

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Any:
        return self._receiver(self.inner.receiver(topic, subscription, ordered=ordered))

    async def aclose(self) -> None:
        await self.inner.aclose()


def changed(message: Message, **fields: Any) -> Message:
    """Return a copy of ``message`` with other fields."""
    values = {
        "key": message.key,
        "attributes": message.attributes,
        "id": message.id,
        "published_at": message.published_at,
    }
    body = fields.pop("body", message.body)
    return Message(fields.pop("topic", message.topic), body, **(values | fields))


def sending(change: Callable[[Message], Message]) -> type[MutantSender]:
    """Return a sender class that changes each message before it is sent."""

    class Changing(MutantSender):
        async def send(self, batch: Sequence[Message]) -> Results:
            return await self.inner.send([change(message) for message in batch])

    return Changing


def receiving(change: Callable[[list[Message]], Sequence[Message]]) -> type[MutantReceiver]:
    """Return a receiver class that changes each received batch."""

    class Changing(MutantReceiver):
        async def receive(self, limit: int, wait: float) -> Sequence[Message]:
            return change(list(await self.inner.receive(limit, wait)))

    return Changing
