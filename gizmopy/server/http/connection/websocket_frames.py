"""Check the frames of a WebSocket's client, and hand them on a few at a time.

Frames that are not masked are refused (RFC 6455 section 5.1).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

_MASKED = 0x80
_MASK = 4
"""How many bytes the mask of a frame has."""
_SIZES = {126: 2, 127: 8}
"""How many bytes the length of a frame has that does not fit the second byte."""
_WRONG = b"\xf0\x80\0\0\0\0"
"""A frame that every reader refuses with 1002: its reserved bits are set."""


_AT_ONCE = 128
"""How many frames are handed on before other connections have their turn."""


class FrameOwner(Protocol):
    """The connection that frames come on."""

    loop: asyncio.AbstractEventLoop
    is_input_paused: bool
    is_body_paused: bool
    """Whether the handler has enough messages."""

    def pause_input(self) -> None:
        """Stop reading from the transport."""

    def resume_input(self) -> None:
        """Read from the transport again."""

    def close(self) -> None:
        """Close the connection."""


class MaskedFrames:
    """Hand frames to aiohttp's ``reader``, which takes unmasked ones, too.

    In the place of the first unmasked frame the reader gets one that it refuses: the socket's
    ``receive`` returns the error and closes with 1002, as for any other breach of the protocol.

    A handler does not wait as long as messages lie ready. 256 KiB of frames of 6 bytes, which come
    in one read, held the event loop for more than a second, so they are handed on in turns.
    """

    __slots__ = ("_head", "_held", "_is_wrong", "_left", "_owner", "_reader", "_turn")

    def __init__(self, reader: Any, owner: FrameOwner) -> None:
        self._reader = reader
        self._owner = owner
        self._head = b""
        """The part of a frame's head that has come; empty if the head is whole."""
        self._left = 0
        """How many bytes of the frame at hand have not come yet."""
        self._is_wrong = False
        self._held = b""
        """The frames that have come and not been handed on."""
        self._turn: asyncio.Handle | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Check ``data`` and hand it on, or hold it; return the reader's result."""
        if self._held:
            self._held += data
            return False, b""
        return self._hand_on(data, _AT_ONCE)

    def feed_eof(self) -> None:
        """End the reader's data."""
        held, self._held = self._held, b""
        if held:
            self._hand_on(held, len(held))
        self._reader.feed_eof()

    def go_on(self) -> None:
        """Hand on the frames that are held, in the next turn of the loop."""
        if self._held and self._turn is None:
            self._turn = self._owner.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if self._owner.is_body_paused:  # it goes on once the handler has read
            return
        held, self._held = self._held, b""
        is_over, _ = self._hand_on(held, _AT_ONCE)
        if is_over:
            self._owner.close()
        elif not self._held:
            self._owner.resume_input()

    def _hand_on(self, data: bytes, most: int) -> tuple[bool, bytes]:
        """Check and hand on ``most`` frames of ``data``, and hold the rest."""
        if self._is_wrong:
            return False, b""
        data, at = self._head + data, self._left
        self._head = b""
        size = len(data)
        while at < size:
            step = self._frame(data, at)
            if step < 0:
                self._is_wrong = True
                data, at = data[:at] + _WRONG, size
                break
            if not step:
                data, self._head = data[:at], data[at:]
                break
            at += step
            most -= 1
            if most <= 0 and at < size:
                data, self._held, size = data[:at], data[at:], at
                if not self._owner.is_input_paused:
                    self._owner.pause_input()
                self.go_on()
        self._left = max(at - size, 0)
        answer: tuple[bool, bytes] = self._reader.feed_data(data)
        return answer

    @staticmethod
    def _frame(data: bytes, at: int) -> int:
        """Return how long the frame at ``at`` is; 0: its head is not whole; -1: it is unmasked."""
        if len(data) < at + 2:
            return 0
        second = data[at + 1]
        if not second & _MASKED:
            return -1
        length = second & 0x7F
        extra = _SIZES.get(length, 0)
        if extra:
            if len(data) < at + 2 + extra:
                return 0
            length = int.from_bytes(data[at + 2 : at + 2 + extra], "big")
        return 2 + extra + _MASK + length
