"""Find where each request on a connection ends (RFC 9112 section 6).

The parser gets the bytes of one request at a time. Given several in one piece, aiohttp's parser
loses all of them if the last one is malformed, drops the bytes behind an ``Upgrade`` that it does
not support, and hands the trailer fields of one request to the next one as header fields.

Only the cuts are decided here: the parser reads every byte that is kept, and refuses a malformed
request. If the two disagree about an end, the connection is closed.
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
"""The number of bytes that the line of a chunk's size may have, with its extensions."""
_FREE_LINE = 16
_FREE_PER_BYTE = 2
"""The bytes of a chunk's line that are no excess: fixed, and for each byte of the chunk."""
_MAX_EXCESS = 16 * 1024
"""The number of bytes that the lines of all chunks may have beyond that, as in Go's net/http."""
_MAX_TRAILERS = 16 * 1024
"""The number of bytes that the trailer fields of one body may have."""
_MAX_LENGTH_DIGITS = 18
"""The number of digits that a Content-Length may have: the parser takes 2**64 - 1 for none."""

_PLAIN = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n").match
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*)?\r\n").fullmatch
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00\r\n]*\r\n").fullmatch
_LAST = b"0\r\n\r\n"


class Chunks:
    """Walk through a body in chunks, and leave out its extensions and trailer fields."""

    __slots__ = ("_excess", "_fields", "_in_trailers", "_left", "_line", "_trailers")

    def __init__(self) -> None:
        self._left = 0
        """How many bytes of the chunk at hand, with its line end, have not come yet."""
        self._line = b""
        """The part of a line that has come; empty if the line is whole."""
        self._excess = 0
        self._in_trailers = False
        self._trailers = 0
        """How many bytes of trailer fields have come."""
        self._fields = 0
        """How many trailer fields have come."""

    def take(self, data: bytes, start: int) -> tuple[bytes, int, bool]:
        """Return the parser's part of ``data`` from ``start``, its end, and if the body is whole.

        Raises BadHttpMessage if a line is none of a chunked body (RFC 9112 section 7.1), the line
        of a chunk has more than 1 KiB, the lines have 16 KiB more than their chunks justify, or the
        trailer fields have more than 16 KiB.
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
        """Return the end of the line if it has a size and nothing else, or 0."""
        match = None if self._line or self._in_trailers else _PLAIN(data, at)
        size = 0 if match is None else int(match[1], 16)
        if match is None or not size:
            return 0
        if self._excess:  # such a line only makes it less
            self._excess = max(self._excess - _FREE_PER_BYTE * size, 0)
        self._left = size + 2
        return match.end()

    def _take_line(self, piece: bytes) -> tuple[bytes, bool]:
        """Return the parser's part of a line that ends with ``piece``, and if it is the last."""
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
        """Begin the chunk that ``line`` announces; return the line without extensions."""
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
    """Cut the bytes of one connection into requests."""

    __slots__ = (
        "_ahead",
        "_chunks",
        "_seam",
        "came",
        "in_body",
        "is_broken",
        "left",
        "length",
        "reader",
        "waiting",
    )

    def __init__(self) -> None:
        self.waiting = 0
        """How many bytes have come of the requests after the one at hand."""
        self._ahead = b""
        """Those bytes, at its end."""
        self.length = 0
        """How many bytes the body at hand has as it is sent; 0: unknown, as it comes in chunks."""
        self.in_body = False
        """Whether a part of the body at hand has not come yet."""
        self.is_broken = False
        """Whether the end of the request at hand cannot be found any more."""
        self.reader: StreamReader = EMPTY_PAYLOAD
        """The reader of the body at hand."""
        self._seam = b""
        """The last bytes of a head that is not whole: its end may be split."""
        self.left = 0
        """How many bytes of it have not come yet; 0: unknown, or none."""
        self._chunks: Chunks | None = None
        self.came = 0
        """The number of bytes of the body at hand that have come, as they are sent."""

    def hold(self, data: bytes, start: int = 0) -> None:
        """Keep ``data`` from ``start`` on until the request at hand is answered."""
        if self.waiting:
            self._ahead = self._ahead[-self.waiting :] + data[start:]
            self.waiting = len(self._ahead)
        else:
            self._ahead, self.waiting = data, len(data) - start

    def release(self) -> tuple[bytes, int]:
        """Return the held bytes, and the place in them at which the next request begins."""
        held = self._ahead, len(self._ahead) - self.waiting
        self._ahead, self.waiting = b"", 0
        return held

    def head(self, data: bytes, start: int) -> int:
        """Return the end in ``data`` of the head that goes on at ``start``; 0: it does not end."""
        if self._seam:
            seam = self._seam + data[start : start + 3]
            found = seam.find(END_OF_HEAD)
            if found >= 0:
                end = start + found + 4 - len(self._seam)
                self._seam = b""
                return end
        found = data.find(END_OF_HEAD, start)
        if found >= 0:
            self._seam = b""
            return found + 4
        self._seam = (self._seam + data[max(start, len(data) - 3) :])[-3:]
        return 0

    def begin_body(self, message: RawRequestMessage, reader: StreamReader) -> None:
        """Expect the body that the head ``message`` announces; the parser feeds it to ``reader``.

        Raises BadHttpMessage if the head leaves the body's end in doubt: CONNECT, a transfer
        coding in HTTP/1.0 or one other than chunked (RFC 9112 section 6.1), and a length of more
        than 18 digits.
        """
        self.reader, self.came = reader, 0
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
        """Return the parser's part of the body at hand, and its end in ``data``.

        Raises BadHttpMessage for chunks as ``Chunks.take`` does.
        """
        if self._chunks is not None:
            piece, end, is_all = self._chunks.take(data, start)
            self.came += end - start
            if is_all:
                self._chunks, self.in_body = None, False
            return piece, end
        end = start + self.left
        if end > len(data):
            self.left = end - len(data)
            self.came += len(data) - start
            return data[start:], len(data)
        self.end_body()
        return data[start:end], end

    def end_body(self) -> None:
        """Note that all bytes of the body at hand have come."""
        self.left, self.in_body = 0, False
