"""Refuse the frames of a WebSocket's client that are not masked (RFC 6455 section 5.1)."""

from __future__ import annotations

from typing import Any

_MASKED = 0x80
_MASK = 4
"""How many bytes the mask of a frame has."""
_SIZES = {126: 2, 127: 8}
"""How many bytes the length of a frame has that does not fit the second byte."""
_WRONG = b"\xf0\x80\0\0\0\0"
"""A frame that every reader refuses with 1002: its reserved bits are set."""


class MaskedFrames:
    """Hand frames to aiohttp's ``reader``, which takes unmasked ones, too.

    In the place of the first unmasked frame the reader gets one that it refuses: the socket's
    ``receive`` returns the error and closes with 1002, as for any other breach of the protocol.
    """

    __slots__ = ("_head", "_is_wrong", "_left", "_reader")

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._head = b""
        """The part of a frame's head that has come; empty if the head is whole."""
        self._left = 0
        """How many bytes of the frame at hand have not come yet."""
        self._is_wrong = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Check ``data`` and hand it on; return the reader's result."""
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
        self._left = max(at - size, 0)
        answer: tuple[bool, bytes] = self._reader.feed_data(data)
        return answer

    def feed_eof(self) -> None:
        """Tell the reader that no more comes."""
        self._reader.feed_eof()

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
