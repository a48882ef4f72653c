"""Hand messages to workers: those that have nothing to do sleep, and wake one another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gizmopy.pubsub.message import Message


class Ready:
    """Hold the messages that any worker may take; ``on_empty`` is called where there are none."""

    def __init__(self, on_empty: Callable[[], None]) -> None:
        self.messages: deque[Message] = deque()
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._on_empty = on_empty
        self._waking = False
        self._ended = False

    def put(self, message: Message) -> None:
        """Have a worker take ``message``."""
        self.messages.append(message)
        if self._sleepers:
            self.wake()

    def wake(self) -> None:
        """Wake one worker, which wakes the next: those that are not needed sleep on."""
        while self._sleepers and not self._waking:
            sleeper = self._sleepers.popleft()
            if not sleeper.done():  # else it is cancelled, and does not know yet
                sleeper.set_result(None)
                self._waking = True

    def hand_on(self) -> None:
        """Have another worker take what is left."""
        if not self.messages:
            self._on_empty()
        elif self._sleepers:
            self.wake()

    def take(self) -> Message | None:
        """Return the next message, or None where there is none now."""
        if not self.messages:
            return None
        message = self.messages.popleft()
        if self._sleepers or not self.messages:
            self.hand_on()
        return message

    async def wait(self) -> bool:
        """Sleep until there may be a message; return False once there never will be."""
        if self._ended:
            return False
        if not self.messages:
            sleeper = asyncio.get_running_loop().create_future()
            self._sleepers.append(sleeper)
            try:
                await sleeper
            except asyncio.CancelledError:
                self._pass_on(sleeper)
                raise
            self._waking = False
        return not self._ended or bool(self.messages)

    async def collect(self, size: int, seconds: float) -> list[Message]:
        """Wait for a message, then ``seconds`` for up to ``size``; return nothing at the end."""
        while (message := self.take()) is None:
            if not await self.wait():
                return []
        batch = [message]
        until = asyncio.get_running_loop().time() + seconds
        while len(batch) < size:
            if (message := self.take()) is not None:
                batch.append(message)
            elif not await self._wait_until(until):
                break
        return batch

    async def _wait_until(self, when: float) -> bool:
        """Sleep until there may be a message; return False at ``when`` or the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(when):
                return await self.wait()
        return False

    def _pass_on(self, sleeper: asyncio.Future[None]) -> None:
        """Wake another one where a sleeper was cancelled that was woken, too, for a message."""
        if sleeper in self._sleepers:
            self._sleepers.remove(sleeper)
        else:
            self._waking = False
        self.hand_on()

    def end(self) -> list[Message]:
        """Let workers end when they have finished what they handle, and return what is left."""
        self._ended = True
        left = list(self.messages)
        self.messages.clear()
        while self._sleepers:
            sleeper = self._sleepers.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
        return left
