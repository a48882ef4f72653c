"""The phase of one subscriber's engine, shared by all of its parts."""

from __future__ import annotations

import asyncio
from enum import IntEnum


class EnginePhase(IntEnum):
    """How far the engine has come; it only advances."""

    RECEIVING = 0
    """Messages are received and handled."""
    STOPPED = 1
    """Nothing is received any more; messages of a receive that was pending are released."""
    FINISHING = 2
    """No handler is started any more; a worker ends when its handler does."""
    CANCELLING = 3
    """Handlers are cancelled; whatever they raise now is not a failure of their messages."""
    CLOSED = 4
    """The driver has taken back all that a pending receive may still return."""


class Lifecycle:
    """Hold the phase, and whether the engine has ended."""

    def __init__(self) -> None:
        self.phase = EnginePhase.RECEIVING
        self.ended = asyncio.Event()
        """Set when the engine was drained, or one of its tasks failed: nothing more is settled."""

    def advance(self, phase: EnginePhase) -> None:
        """Enter ``phase``, unless a later one has begun."""
        self.phase = max(self.phase, phase)
