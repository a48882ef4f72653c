"""Read multipart bodies with limits, and raise Problem for malformed ones.

aiohttp limits only the number of bytes. One megabyte of ``;`` in the Content-Disposition of 60
parts held the event loop for 9 s in ``request.post()``, and wrote a megabyte into the log.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import BodyPartReader, MultipartReader
from aiohttp.hdrs import CONTENT_DISPOSITION, CONTENT_TYPE
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

from gizmopy._aiohttp import BaseBodyPartReader, BaseMultipartReader
from gizmopy.untrusted.json_text import read_json
from gizmopy.untrusted.text import cut, escape, is_unicode
from gizmopy.web.problems import Problem

_MULTIPART = "a multipart body"
MAX_CONTENT_TYPE = 256
"""The maximum length of Content-Type. A boundary (RFC 2046 section 5.1.1) has at most 70."""
_MAX_PARTS = 1000
"""The maximum number of parts, including nested ones, as in Go's mime/multipart."""
_MAX_PARAMETERS = 16
"""The maximum number of parameters of a Content-Disposition. Forms have two or three."""
_LINES_PER_TURN = 100
"""The number of lines that are read before other tasks may run."""
_CHARSETS = frozenset(
    (
        *("utf8", "utf16", "utf16le", "utf16be", "usascii", "ascii", "latin1"),
        *(f"iso8859{part}" for part in (*range(1, 12), 13, 14, 15, 16)),
        *(f"{maker}125{page}" for maker in ("windows", "cp") for page in range(9)),
        *("koi8r", "koi8u", "shiftjis", "sjis", "eucjp", "euckr", "gb2312", "gbk", "gb18030"),
        "big5",
    )
)
"""The supported charsets, without hyphens and underscores.

Python's other codecs are refused: ``punycode`` takes quadratic time, and Python caches each unknown
name of a codec until the process ends.
"""

_WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": -zlib.MAX_WBITS}
_PIECE = 64 * 1024
"""The bytes that are decompressed before other tasks may run."""
_GZIP = b"\x1f\x8b"
"""The start of a member: a file of gzip may have several (RFC 1952 section 2.2)."""
_HIGH_BYTE = re.compile(rb"%[89A-Fa-f][0-9A-Fa-f]").search
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rf'{_TOKEN}|"(?:[^"\\]|\\.)*"'
_DISPOSITION = re.compile(
    rf"[ \t]*{_TOKEN}[ \t]*(?:;(?:[ \t]*{_TOKEN}[ \t]*=[ \t]*(?:{_VALUE}))?[ \t]*)*"
).fullmatch
DISPOSITION_PARAMETERS = re.compile(rf";[ \t]*({_TOKEN})[ \t]*=[ \t]*({_VALUE})").findall

_MALFORMED = (LookupError, RecursionError, ValueError, HttpProcessingError)
_MALFORMED_PART = (*_MALFORMED, RuntimeError, AssertionError, zlib.error)
"""aiohttp raises RuntimeError for an unknown encoding, AssertionError for another content type."""


@contextmanager
def reading(form: str, malformed: tuple[type[Exception], ...] = _MALFORMED) -> Iterator[None]:
    """Raise Problem (400) instead of the errors that aiohttp raises for a malformed body."""
    try:
        yield
    except malformed as error:
        raise Problem(400, f"The request body cannot be read as {form}.") from error


def reading_parts(form: str = _MULTIPART) -> AbstractContextManager[None]:
    """Return ``reading`` for code that finds or decodes parts, which raises more errors."""
    return reading(form, _MALFORMED_PART)


def parse_json(text: str, loads: Callable[[str], Any]) -> Any:
    """Return the value of a JSON text. Raises Problem (400) with the reason if it is malformed."""
    try:
        return loads(text)
    except _MALFORMED as error:
        reason = cut(escape(str(error)))
        raise Problem(400, f"The request body is malformed. Invalid JSON: {reason}.") from error


def check_form(body: bytes, charset: str) -> None:
    """Raise ValueError if percent-encoded bytes of a form do not fit its charset.

    aiohttp replaces them by U+FFFD.
    """
    if _HIGH_BYTE(body) is not None:
        text = body.rstrip().decode(charset)
        parse_qsl(text, keep_blank_values=True, encoding=charset, errors="strict")


def check_disposition(header: str) -> None:
    """Raise ValueError if the Content-Disposition of a part is malformed or not UTF-8.

    aiohttp leaves out what it cannot read: a file without its name becomes a text.
    """
    if not is_unicode(header) or _DISPOSITION(header) is None:
        raise ValueError("the Content-Disposition of a part is malformed")
    names: set[str] = set()
    for name, value in DISPOSITION_PARAMETERS(header):
        if name.lower() in names:
            raise ValueError("the Content-Disposition of a part has a parameter twice")
        names.add(name.lower())
        # RFC 8187: filename*=utf-8''na%C3%AFve.txt
        if name.endswith("*") and not name[:-1].rpartition("*")[2].isdigit():
            charset, _, text = value.split("'", 2)
            check_charset(charset)
            unquote(text, charset or "utf-8", "strict")


def check_charset(charset: str | None) -> None:
    """Raise Problem (415) if a charset is not supported. None means UTF-8."""
    name = (charset or "utf8").lower().replace("-", "").replace("_", "")
    if name not in _CHARSETS:
        raise Problem(415, "The charset of the request body is not supported; send UTF-8.")


class PartReader(BaseBodyPartReader):
    """Read one part.

    All methods raise Problem: 400 if the part is malformed, 415 if its charset is not supported.
    """

    async def read(self, *, decode: bool = False) -> bytes:
        """Return the content of the part."""
        with reading(_MULTIPART):
            return await super().read(decode=decode)

    async def read_chunk(self, size: int = BodyPartReader.chunk_size) -> bytes:
        """Return the next bytes of the content, at most ``size``."""
        with reading(_MULTIPART):
            return await super().read_chunk(size)

    async def readline(self) -> bytes:
        """Return the next line of the content."""
        with reading(_MULTIPART):
            return await super().readline()

    async def text(self, *, encoding: str | None = None) -> str:
        """Return the content as text."""
        with reading("text"):
            return await super().text(encoding=encoding)

    async def json(self, *, encoding: str | None = None) -> Any:
        """Return the content as JSON; None if it is empty."""
        text = await self.text(encoding=encoding)
        return parse_json(text, read_json) if text else None

    async def form(self, *, encoding: str | None = None) -> list[tuple[str, str]]:
        """Return the fields of the form in the content."""
        with reading("a form"):
            text = (await self.text(encoding=encoding)).rstrip()
            charset = encoding or self.get_charset("utf-8")
            return parse_qsl(text, keep_blank_values=True, encoding=charset, errors="strict")

    def decode(self, data: Any) -> Any:
        """Return ``data`` decoded by the part's transfer and content encodings."""
        with reading_parts():
            return super().decode(data)

    async def decode_iter(self, data: Any) -> AsyncIterator[Any]:
        """Yield ``data`` decoded by the part's transfer and content encodings."""
        with reading_parts():
            async for piece in super().decode_iter(data):
                yield piece

    def decompress(self, data: bytes, coding: str) -> Iterator[bytes]:
        """Yield ``data`` decompressed, 64 KiB at a time. Raises ValueError if it is not whole.

        aiohttp returns what it could decompress of a part that was cut.
        """
        if coding == "identity" or not data:
            yield data
            return
        if coding not in _WBITS:
            raise ValueError("the Content-Encoding of a part is not supported")
        while data:
            decompressor = zlib.decompressobj(_WBITS[coding])
            while True:
                piece = decompressor.decompress(data, _PIECE)
                data = decompressor.unconsumed_tail
                yield piece
                if decompressor.eof:
                    break
                if not data and len(piece) < _PIECE:
                    raise ValueError("the compressed data of a part is cut")
            data = decompressor.unused_data
            if data and not (coding == "gzip" and data.startswith(_GZIP)):
                raise ValueError("a part has bytes after its compressed data")

    def get_charset(self, default: str) -> str:
        """Return the charset of the part, or ``default``."""
        charset = super().get_charset(default)
        check_charset(charset)
        return charset


class Reader(BaseMultipartReader):
    """Read the parts of a body, and of bodies nested in it."""

    part_reader_cls = PartReader

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.max_parts = _MAX_PARTS
        """The maximum number of parts."""
        self._parts = [0]
        """The number of parts so far, in a list that nested readers share."""
        self._lines = 0

    async def next(self) -> MultipartReader | BodyPartReader | None:
        """Return the next part, or None at the end.

        Raises Problem: 400 if the body is malformed, 413 if it has more than 1,000 parts.
        """
        with reading_parts():
            return await super().next()

    def make_part_reader(self, headers: CIMultiDictProxy[str]) -> MultipartReader | BodyPartReader:
        """Return the reader of a part. Raises Problem (413) after 1,000 parts."""
        self.count_part(headers)
        part = super().make_part_reader(headers)
        if isinstance(part, Reader):
            part._parts = self._parts
        return part

    def count_part(self, headers: CIMultiDictProxy[str]) -> None:
        """Count a part, and check its headers.

        Raises Problem (413) if there are too many parts, and ValueError if a header is malformed.
        """
        self._parts[0] += 1
        if self._parts[0] > self.max_parts:
            raise Problem(413, f"The request body has more than {self.max_parts} parts.")
        if len(headers.get(CONTENT_TYPE, "")) > MAX_CONTENT_TYPE:
            raise ValueError("the Content-Type of a part is too long")
        disposition = headers.get(CONTENT_DISPOSITION, "")
        if disposition.count(";") > _MAX_PARAMETERS:
            raise ValueError("the Content-Disposition of a part has too many parameters")
        if disposition:
            check_disposition(disposition)

    async def read_line(self) -> bytes:
        """Return the next line of the body."""
        self._lines += 1
        # Lines that have arrived are read without an await that suspends: without this sleep, a
        # body of a million empty lines would hold the event loop.
        if self._lines % _LINES_PER_TURN == 0:
            await asyncio.sleep(0)
        return await super().read_line()
