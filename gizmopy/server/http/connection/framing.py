"""Find the end of each request on a connection (RFC 9112 section 6).

The parser gets the bytes of one request at a time. With several in one piece, aiohttp's parser
would lose all of them if the last one is malformed, drop the bytes after an ``Upgrade`` that it
does not support, and add the trailer fields of one request to the headers of the next one.

This module decides only about the end of a request. The parser still gets every byte of it, and
refuses a malformed request. If the two disagree about an end, the connection is closed.
"""

from __future__ import annotations

import re

from aiohttp.hdrs import CONTENT_LENGTH, TRANSFER_ENCODING
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gizmopy.server.http.connection.head_limits import MAX_FIELDS

END_OF_HEAD = b"\r\n\r\n"

_MAX_CHUNK_LINE = 1024
"""The most bytes of a chunk's size line, including extensions."""
_FREE_LINE = 16
_FREE_PER_BYTE = 2
"""The bytes of a size line that are not excess: a fixed number, and some for each byte of data."""
_MAX_EXCESS = 16 * 1024
"""The most excess bytes of all size lines of a body, as in Go's net/http."""
_MAX_TRAILERS = 16 * 1024
"""The most bytes of the trailer fields of a body."""
_MAX_LENGTH_DIGITS = 18
"""The most digits of a Content-Length: the parser takes 2**64 - 1 for an unknown length."""

_PLAIN = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n").match
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*)?\r\n").fullmatch
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00\r\n]*\r\n").fullmatch
_LAST = b"0\r\n\r\n"


class Chunks:
    """Scan a chunked body, and remove its extensions and trailer fields."""

    __slots__ = ("_excess", "_fields", "_in_trailers", "_left", "_line", "_trailers")

    def __init__(self) -> None:
        self._left = 0
        """How many bytes of the current chunk, including its line end, are missing."""
        self._line = b""
        """The part of an incomplete line that has arrived."""
        self._excess = 0
        """The bytes of size lines beyond those that their chunks justify."""
        self._in_trailers = False
        self._trailers = 0
        """The bytes of trailer fields so far."""
        self._fields = 0
        """The number of trailer fields so far."""

    def scan(self, data: bytes, start: int) -> tuple[bytes, int, bool]:
        """Return the bytes of ``data[start:]`` for the parser, their end, and if the body ends.

        Raises BadHttpMessage if a line is malformed (RFC 9112 section 7.1), if a size line has more
        than 1 KiB, if all size lines have 16 KiB more than their chunks justify, or if the trailer
        fields have more than 16 KiB.
        """
        at, end, run, kept = start, len(data), start, []
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
            elif at_plain := self._plain(data, at):
                at = at_plain
            else:
                kept.append(data[run:at])
                run = at = data.find(b"\n", begin := at) + 1 or end
                line, is_all = self._take_line(data[begin:at])
                kept.append(line)
                if is_all:
                    return b"".join(kept), at, True
        kept.append(data[run:at])
        return kept[0] if len(kept) == 1 else b"".join(kept), at, False

    def _plain(self, data: bytes, at: int) -> int:
        """Return the end of a size line without extensions, or 0 if it is another line."""
        match = None if self._line or self._in_trailers else _PLAIN(data, at)
        size = 0 if match is None else int(match[1], 16)
        if match is None or not size:
            return 0
        if self._excess:  # a short line justifies bytes of the others
            self._excess = max(self._excess - _FREE_PER_BYTE * size, 0)
        self._left = size + 2
        return match.end()

    def _take_line(self, piece: bytes) -> tuple[bytes, bool]:
        """Return a line's bytes for the parser, and if it is the last line; ``piece`` ends it."""
        if self._in_trailers:
            self._count_trailer(len(piece))
        elif len(self._line) + len(piece) > _MAX_CHUNK_LINE:
            raise BadHttpMessage("the line of a chunk is too long")
        line = self._line + piece
        if not line.endswith(b"\n"):
            self._line = line
            return b"", False
        self._line = b""
        if not self._in_trailers:
            return self._size(line), False
        if line == b"\r\n":
            return _LAST, True
        self._check_trailer(line)
        return b"", False

    def _size(self, line: bytes) -> bytes:
        """Begin the chunk of a size line; return the line without extensions."""
        match = _SIZE(line)
        if match is None:
            raise BadHttpMessage("the size of a chunk is malformed")
        size = int(match[1], 16)
        excess = self._excess + len(line) - _FREE_LINE - _FREE_PER_BYTE * size
        self._excess = max(excess, 0)
        if self._excess > _MAX_EXCESS:
            raise BadHttpMessage("the lines of the chunks are too long")
        if not size:
            self._in_trailers = True
            return b""
        self._left = size + 2
        return match[1] + b"\r\n"

    def _check_trailer(self, line: bytes) -> None:
        self._fields += 1
        if _TRAILER(line) is None or self._fields > MAX_FIELDS:
            raise BadHttpMessage("a trailer field is malformed, or there are too many")

    def _count_trailer(self, size: int) -> None:
        self._trailers += size
        if self._trailers > _MAX_TRAILERS:
            raise BadHttpMessage("the trailer fields are too long")


class Framing:
    """Divide the bytes of one connection into requests."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_tail",
        "held",
        "in_body",
        "is_broken",
        "left",
        "length",
        "reader",
        "received",
    )

    def __init__(self) -> None:
        self.held = 0
        """How many bytes of later requests are held."""
        self._buffer = b""
        """Bytes that end with the held ones."""
        self.length = 0
        """The Content-Length of the current body; 0 if it is sent in chunks."""
        self.in_body = False
        """Whether a part of the current body is missing."""
        self.is_broken = False
        """Whether the end of the current request is unknown: nothing after it can be parsed."""
        self.reader: StreamReader = EMPTY_PAYLOAD
        """The reader of the current body."""
        self._tail = b""
        """The last bytes of an incomplete head: the empty line that ends it may be split."""
        self.left = 0
        """How many bytes of a body with a Content-Length are missing."""
        self._chunks: Chunks | None = None
        self.received = 0
        """The bytes of the current body so far, as they were sent."""

    def hold(self, data: bytes, start: int = 0) -> None:
        """Keep ``data[start:]`` until the current request has been answered."""
        if self.held:
            self._buffer = self._buffer[-self.held :] + data[start:]
            self.held = len(self._buffer)
        else:
            self._buffer, self.held = data, len(data) - start

    def release(self) -> tuple[bytes, int]:
        """Return bytes, and the index at which the held ones begin; hold none."""
        buffer, start = self._buffer, len(self._buffer) - self.held
        self._buffer, self.held = b"", 0
        return buffer, start

    def head(self, data: bytes, start: int) -> int:
        """Return the index after the head that continues at ``start``; 0 if it is incomplete."""
        if self._tail:
            joined = self._tail + data[start : start + 3]
            found = joined.find(END_OF_HEAD)
            if found >= 0:
                end = start + found + 4 - len(self._tail)
                self._tail = b""
                return end
        found = data.find(END_OF_HEAD, start)
        if found >= 0:
            self._tail = b""
            return found + 4
        self._tail = (self._tail + data[max(start, len(data) - 3) :])[-3:]
        return 0

    def begin_body(self, message: RawRequestMessage, reader: StreamReader) -> None:
        """Begin the body of ``message``, which the parser feeds to ``reader``.

        Raises BadHttpMessage if the end of the body is not clear: for CONNECT, for a transfer
        coding in HTTP/1.0 or one other than chunked (RFC 9112 section 6.1), and for a
        Content-Length that is not a number of at most 18 digits.
        """
        self.reader, self.received = reader, 0
        headers = message.headers
        if message.method == "CONNECT":
            raise BadHttpMessage("CONNECT is not served")
        if TRANSFER_ENCODING in headers:
            if message.version != HttpVersion11:
                raise BadHttpMessage("a transfer coding needs HTTP/1.1")
            if headers[TRANSFER_ENCODING].lower() != "chunked":
                raise BadHttpMessage("the only transfer coding that is served is chunked")
            self._chunks, self.length = Chunks(), 0
            self.in_body = True
            return
        length = headers.get(CONTENT_LENGTH, "")
        if not length.isdecimal() or len(length) > _MAX_LENGTH_DIGITS:
            raise BadHttpMessage("the Content-Length is wrong or too large")
        self.left = self.length = int(length)
        self.in_body = self.left > 0

    def body(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Return the bytes of ``data[start:]`` for the parser, and the index after them.

        Raises BadHttpMessage as ``Chunks.scan`` does.
        """
        if self._chunks is not None:
            piece, end, is_all = self._chunks.scan(data, start)
            self.received += end - start
            if is_all:
                self._chunks, self.in_body = None, False
            return piece, end
        end = start + self.left
        if end > len(data):
            self.left = end - len(data)
            self.received += len(data) - start
            return data[start:], len(data)
        self.end_body()
        return data[start:end], end

    def end_body(self) -> None:
        """Note that the current body is complete."""
        self.left, self.in_body = 0, False
