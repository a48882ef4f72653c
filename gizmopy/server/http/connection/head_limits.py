"""Limit the head of a request: the request line, each field, and the whole head.

aiohttp limits each item, and not their sum: 60 connections with unfinished heads of 126 fields of
16 KiB took 232 MiB (issue 11). The bytes of a head are counted as they arrive, before parsing.
"""

from __future__ import annotations

from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

MAX_LINE = 16 * 1024
"""The most bytes of a request line or a field, unless a head may have fewer."""
MAX_FIELDS = 128
"""The most fields of a head, and the most trailer fields of a body."""

_LINE_ENDS = b"\r\n"


class HeadTooLong(HttpProcessingError):
    """Refuse a request line (414), or another part of a head (431)."""

    def __init__(self, code: int) -> None:
        super().__init__(code=code, message="the head is too long")


class HeadLimits:
    """Count the bytes of each head on a connection; ``max_head`` is in bytes."""

    __slots__ = ("_line", "_max_head", "count", "max_line")

    def __init__(self, max_head: int) -> None:
        self.max_line = min(MAX_LINE, max_head)
        """The most bytes of a request line or a field."""
        self.count = 0
        """The bytes of the current head so far."""
        self._max_head = max_head
        self._line = 0
        """The bytes of its request line so far; -1: the line is complete."""

    def add(self, piece: bytes, *, is_last: bool) -> None:
        """Count a piece of a head. Raises HeadTooLong."""
        self.count += len(piece)
        if self._line >= 0 and (self.count > self.max_line or not is_last):
            self._measure_line(piece)
        if self.count > self._max_head:
            # While no line is complete, the head consists of the request line.
            raise HeadTooLong(414 if self._line > 0 else 431)

    def end(self, message: Any) -> None:
        """Check the fields of the head ``message``, and begin the next head. Raises HeadTooLong.

        aiohttp's parser in C counts the name of the first field only.
        """
        is_long = self.count > self.max_line
        self.count = self._line = 0
        if is_long and any(
            len(name) + len(value) > self.max_line for name, value in message.raw_headers
        ):
            raise HeadTooLong(431)

    def _measure_line(self, piece: bytes) -> None:
        """Count the bytes of the request line, after empty lines (RFC 9112 section 2.2)."""
        if not self._line:
            piece = piece.lstrip(_LINE_ENDS)
        end = piece.find(b"\n")
        length = self._line + (end if end >= 0 else len(piece))
        if length > self.max_line + len(b"\r"):
            raise HeadTooLong(414)
        self._line = length if end < 0 else -1
