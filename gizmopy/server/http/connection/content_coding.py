"""Decompress the bodies of requests (RFC 9110 section 8.4): gzip and deflate.

aiohttp's parser would do this. It takes a body that was cut off in the middle for a whole one,
passes on a body in a coding that it does not know as it is, and refuses the head of a request with
a coding whose library is not installed, as if it were no HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from gizmopy.web import Problem

_MAX_PIECE = 256 * 1024
"""The most bytes that one call returns: a kilobyte of gzip can be a megabyte of body."""
_MAX_STEP = 16 * 1024
"""The most bytes that zlib gets at once: it copies those after the end of each gzip member."""
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_ACCEPTED = "gzip, deflate"
_METHOD, _DEFLATE = 0x0F, 8
"""The bits of the first byte of zlib's format that name the method, and the one method."""


class Decompressor:
    """Decompress one body. ``coding`` is gzip, x-gzip or deflate."""

    __slots__ = ("_at", "_data", "_is_full", "_step", "_stream", "_window")

    def __init__(self, coding: str) -> None:
        self._window = _WINDOWS[coding]
        self._stream: zlib._Decompress | None = None
        """The decompressor of the current gzip member, or of the whole; None before a byte."""
        self._data = b""
        """The bytes that were added last."""
        self._at = 0
        """How many of these have been passed to zlib."""
        self._step = b""
        """The bytes that zlib got and did not use."""
        self._is_full = False
        """Whether zlib may return more without further bytes."""

    def add(self, data: bytes) -> None:
        """Add bytes of the body, after ``take`` has returned all that it can."""
        self._data, self._at = data, 0

    @property
    def has_more(self) -> bool:
        """Whether ``take`` may return more bytes now."""
        return self._is_full or bool(self._step) or self._at < len(self._data)

    @property
    def is_whole(self) -> bool:
        """Whether the body may end here. An empty one may."""
        return self._stream is None or (self._stream.eof and not self.has_more)

    def take(self) -> bytes:
        """Return the next bytes, at most 256 KiB; empty if more have to be added first.

        Raises zlib.error if the body is malformed.
        """
        piece = b""
        while not piece and self.has_more:
            step = self._step
            if not step and not self._is_full:
                step = self._data[self._at : self._at + _MAX_STEP]
                self._at += len(step)
            stream = self._stream_for(step)
            piece = stream.decompress(step, _MAX_PIECE)
            self._step = stream.unused_data if stream.eof else stream.unconsumed_tail
            self._is_full = not stream.eof and len(piece) == _MAX_PIECE
        return piece

    def _stream_for(self, step: bytes) -> zlib._Decompress:
        """Return the decompressor for ``step``: of the next member, if one has ended."""
        stream = self._stream
        if stream is None:
            # Some clients send deflate without zlib's head, which RFC 9110 section 8.4.1.2 notes.
            if self._window == _ZLIB and step[0] & _METHOD != _DEFLATE:
                self._window = _RAW
        elif not stream.eof:
            return stream
        elif self._window != _GZIP:  # only gzip has members (RFC 1952 section 2.2)
            raise zlib.error("bytes follow the end of the compressed data")
        self._stream = zlib.decompressobj(self._window)
        return self._stream


def decompressor_for(fields: Iterable[str]) -> Decompressor | None:
    """Return what the body of a request with these Content-Encoding fields needs; None: nothing.

    Raises Problem (415) if a coding is not supported, or there are several.
    """
    codings = [each.strip().lower() for each in ",".join(fields).split(",")]
    codings = [each for each in codings if each not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOWS:
        detail = "The Content-Encoding of the request is not supported; send gzip or deflate."
        # RFC 9110 section 12.5.3: the field says which codings would have been accepted.
        raise Problem(415, detail, headers={"Accept-Encoding": _ACCEPTED, "Connection": "close"})
    return Decompressor(codings[0])
