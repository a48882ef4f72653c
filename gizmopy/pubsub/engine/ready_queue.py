"""Hand messages to workers: idle workers wait here, and each one that wakes wakes the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gizmopy.pubsub.message import Message


class ReadyQueue:
    """Hold the messages that any worker may take; ``on_empty`` is called when none is left.

    Only one worker is woken at a time. It wakes the next one if messages are left, so that handlers
    which never wait are all run by one worker, and the others keep sleeping.
    """

    def __init__(self, on_empty: Callable[[], None]) -> None:
        self.messages: deque[Message] = deque()
        """The messages that a worker may take now; none while this is paused."""
        self.held: deque[Message] = deque()
        """The messages that wait for the end of a pause."""
        self.incoming = self.messages
        """Takes new messages: ``messages``, or ``held`` while this is paused."""
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._on_empty = on_empty
        self._waking = False
        """Whether a worker was woken and has not run since."""
        self._closed = False

    def put(self, message: Message) -> None:
        """Add a message and wake a worker for it."""
        self.incoming.append(message)
        if self._waiters and self.messages:
            self.wake()

    @property
    def paused(self) -> bool:
        """Whether workers get no messages at present."""
        return self.incoming is self.held

    def pause(self) -> None:
        """Hand out no message until ``resume``; those that workers have taken go on."""
        # Workers look at `messages` for each message. It is emptied in place, so that a pause costs
        # them nothing, and a worker in the middle of its loop stops, too.
        self.held.extend(self.messages)
        self.messages.clear()
        self.incoming = self.held

    def resume(self) -> None:
        """Hand out messages again, those that were held first."""
        self.messages.extend(self.held)
        self.held.clear()
        self.incoming = self.messages
        if self.messages:
            self.wake()

    def wake(self) -> None:
        """Wake one worker, unless one is about to run already."""
        while self._waiters and not self._waking:
            waiter = self._waiters.popleft()
            # A waiter may be cancelled in this turn of the loop and not have run since. To set its
            # result would raise InvalidStateError, here in the receive task, and end the engine.
            if not waiter.done():
                waiter.set_result(None)
                self._waking = True

    def wake_next(self) -> None:
        """Wake another worker for the messages that are left."""
        if not self.messages:
            self._on_empty()
        elif self._waiters:
            self.wake()

    def take(self) -> Message | None:
        """Return the next message, or None if there is none now."""
        if not self.messages:
            return None
        message = self.messages.popleft()
        if self._waiters or not self.messages:
            self.wake_next()
        return message

    async def wait(self) -> bool:
        """Wait until there may be a message; return False once there never will be."""
        if self._closed:
            return False
        if not self.messages:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake_instead_of(waiter)
                raise
            self._waking = False
        return not self._closed or bool(self.messages)

    async def collect(self, size: int, seconds: float) -> list[Message]:
        """Wait for a message, then ``seconds`` for more, up to ``size``; return [] at the end."""
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
        """Wait until there may be a message; return False at ``when`` or at the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(when):
                return await self.wait()
        return False

    def _wake_instead_of(self, waiter: asyncio.Future[None]) -> None:
        """Wake another worker instead of one that was cancelled.

        If the cancelled one had been woken for a message, nothing else would wake another one for
        it: the message would stay here until the next one is received.
        """
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        else:
            self._waking = False
        self.wake_next()

    def close(self) -> list[Message]:
        """Have workers end instead of waiting; return the messages that none of them has taken."""
        self._closed = True
        left = [*self.messages, *self.held]
        self.messages.clear()
        self.held.clear()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
        return left
