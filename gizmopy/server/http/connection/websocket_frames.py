"""Check the frames of a WebSocket's client, and pass them to aiohttp a few at a time.

A frame that is not masked is refused (RFC 6455 section 5.1).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

_MASKED = 0x80
_MASK = 4
"""The size of a frame's mask in bytes."""
_SIZES = {126: 2, 127: 8}
"""The size of an extended length in bytes, by the value of the second byte."""
_WRONG = b"\xf0\x80\0\0\0\0"
"""A frame that a reader refuses with 1002, because its reserved bits are set."""
_BATCH = 128
"""How many frames are passed on before other tasks may run."""


class FrameOwner(Protocol):
    """The connection that frames arrive on."""

    loop: asyncio.AbstractEventLoop
    is_input_paused: bool
    is_body_paused: bool
    """Whether the handler has as many messages as it can hold."""

    def pause_input(self) -> None:
        """Stop reading from the transport."""

    def resume_input(self) -> None:
        """Read from the transport again."""

    def close(self) -> None:
        """Close the connection."""


class MaskedFrames:
    """Pass frames to aiohttp's ``reader``, which also accepts unmasked ones.

    Instead of the first unmasked frame, the reader gets a frame that it refuses. So the socket's
    ``receive`` returns the error and closes with 1002, as for any other violation of the protocol.

    A handler does not wait while messages are ready. 256 KiB of frames of 6 bytes, which arrive in
    one read, blocked the event loop for more than a second. So frames are passed on in batches.
    """

    __slots__ = ("_batch_handle", "_head", "_held", "_is_wrong", "_left", "_owner", "_reader")

    def __init__(self, reader: Any, owner: FrameOwner) -> None:
        self._reader = reader
        self._owner = owner
        self._head = b""
        """The part of an incomplete frame head that has arrived."""
        self._left = 0
        """How many bytes of the current frame are missing."""
        self._is_wrong = False
        """Whether an unmasked frame has arrived: later ones are dropped."""
        self._held = b""
        """The frames that have arrived and not been passed on."""
        self._batch_handle: asyncio.Handle | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Check ``data`` and pass it on, or hold it; return the reader's result."""
        if self._held:
            self._held += data
            return False, b""
        return self._pass_on(data, _BATCH)

    def feed_eof(self) -> None:
        """End the reader's data."""
        held, self._held = self._held, b""
        if held:
            self._pass_on(held, len(held))
        self._reader.feed_eof()

    def resume(self) -> None:
        """Pass on the held frames, in the next turn of the event loop."""
        if self._held and self._batch_handle is None:
            self._batch_handle = self._owner.loop.call_soon(self._pass_held)

    def _pass_held(self) -> None:
        self._batch_handle = None
        if self._owner.is_body_paused:  # resume_reading calls resume
            return
        held, self._held = self._held, b""
        is_over, _ = self._pass_on(held, _BATCH)
        if is_over:
            self._owner.close()
        elif not self._held:
            self._owner.resume_input()

    def _pass_on(self, data: bytes, most: int) -> tuple[bool, bytes]:
        """Check and pass on at most ``most`` frames of ``data``, and hold the rest."""
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
                self.resume()
        self._left = max(at - size, 0)
        result: tuple[bool, bytes] = self._reader.feed_data(data)
        return result

    @staticmethod
    def _frame(data: bytes, at: int) -> int:
        """Return the size of the frame at ``at``; 0 if its head is incomplete, -1 if unmasked."""
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
