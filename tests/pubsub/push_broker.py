"""A broker that pushes: a POST to ``/push/TOPIC`` is a message, answered when it is settled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Capabilities, Message, Status
from gizmopy.pubsub.driver import PushAnswer, PushRoute, Results, Revoke

_MOST = 3
"""How many messages may wait to be received."""
_LATER: PushAnswer = (503, {"Retry-After": "1"}, b"later")


class PushBroker:
    """Make receivers of pushes. What is sent goes nowhere: this broker publishes by HTTP."""

    capabilities = Capabilities(
        ordering=False,
        can_nack=True,
        native_delay=False,
        lease=None,
        positions=False,
        delivery_count="process",
        process_local=False,
        batch_messages=100,
        batch_bytes=None,
        message_bytes=None,
        pushes=True,
    )

    def __init__(self, make: Callable[[str], PushReceiver] | None = None) -> None:
        self._make = make or PushReceiver
        self.receivers: list[PushReceiver] = []
        self.closed = False

    def sender(self, topic: str) -> Any:
        raise UsageError("this broker only pushes")

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> PushReceiver:
        """Return the receiver of ``/push/TOPIC``."""
        self.receivers.append(self._make(topic))
        return self.receivers[-1]

    async def aclose(self) -> None:
        """Do nothing."""
        self.closed = True


class PushReceiver:
    """Receive what is pushed to one path."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.closed = False
        self._accepts = False
        self._waiting: deque[Message] = deque()
        self._answers: dict[Message, asyncio.Future[PushAnswer]] = {}
        self._changed = asyncio.Event()

    def routes(self) -> Sequence[PushRoute]:
        """Return the one route."""
        return [PushRoute("POST", f"/push/{self.topic}", self._push)]

    async def _push(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        if not self._accepts:
            return _LATER
        if len(self._waiting) >= _MOST:
            return 429, {}, b"full"
        number = headers.get("message-id", "?")
        message = Message(self.topic, body, attributes=headers, id=number)
        answer: asyncio.Future[PushAnswer] = asyncio.get_running_loop().create_future()
        self._answers[message] = answer
        self._waiting.append(message)
        self._changed.set()
        return await answer

    def refuse_pushes(self) -> None:
        """Answer what waits."""
        self._accepts = False
        while self._waiting:
            self._answer(self._waiting.popleft(), _LATER)

    def _answer(self, message: Message, answer: PushAnswer) -> Exception | None:
        waiting = self._answers.pop(message, None)
        if waiting is None:
            return PubSubError("it is answered already", transient=False)
        if not waiting.done():
            waiting.set_result(answer)
        return None

    async def connect(self, revoke: Revoke) -> None:
        """Accept pushes from now on."""
        self._accepts = True

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return what was pushed."""
        if self.closed:
            raise UsageError("this receiver is closed")
        if not self._waiting:
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                return []
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Answer 204."""
        return [self._answer(message, (204, {"X-Settled": "ack"}, b"")) for message in batch]

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Answer 503: the sender tries again."""
        return [self._answer(message, _LATER) for message in batch]

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Do nothing: there are no leases."""
        return [None] * len(batch)

    def status(self) -> Status:
        """Return how many messages wait."""
        return Status(backlog=len(self._waiting))

    async def aclose(self) -> None:
        """Answer all that is left."""
        self.closed = True
        self.refuse_pushes()
        for message in list(self._answers):
            self._answer(message, _LATER)
        self._changed.set()
