"""Read the fields and files of a form in multipart/form-data (RFC 7578)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import BodyPartReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.hdrs import CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TRANSFER_ENCODING
from aiohttp.hdrs import CONTENT_TYPE as CONTENT_TYPE_NAME
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy, MultiDict

from gizmopy._aiohttp import BaseMultipartReader
from gizmopy.web.multipart import (
    DISPOSITION_PARAMETERS,
    MAX_CONTENT_TYPE,
    PartReader,
    Reader,
    check_charset,
    reading_parts,
)
from gizmopy.web.problems import Problem
from gizmopy.web.uploads import Spool, UploadFile

FormValue = str | UploadFile
_FORM = "a form"
_CHUNK = 64 * 1024
_MAX_TEXTS = 1024 * 1024
"""How many bytes the texts of a form with files may have: they are kept in memory."""
_MAX_LINES = 100
"""How many lines may stand before the first part, or between two."""
_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
_CHARSET = "_charset_"
"""The field that names the charset of the texts after it (RFC 7578 section 4.6)."""
_IDENTITY = ("", "7bit", "8bit", "binary", "identity")
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(frozen=True, slots=True)
class FormShape:
    """What is read of a form, and what is skipped."""

    texts: frozenset[str]
    """The names of the fields that are texts."""
    files: frozenset[str]
    """The names of those that are files."""
    max_parts: int
    """The most fields and files."""
    keeps_unknown: bool = False
    """Whether the names of other fields are of interest, too, and their texts."""


class FormReader(Reader):
    """Read the parts of a form. None of them is read as a multipart body of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lines_between = 0

    def make_part_reader(self, headers: CIMultiDictProxy[str]) -> BodyPartReader:
        """Return the reader of a part. Raises Problem (413) after the maximum of parts."""
        self.count_part(headers)
        # aiohttp reads a file of the type multipart/related, as browsers save pages, as parts, and
        # obeys the Content-Length of a part, which RFC 7578 section 4.8 forbids.
        part = BaseMultipartReader.make_part_reader(self, _NO_HEADERS)
        assert isinstance(part, PartReader)
        part.headers = headers
        self._lines_between = 0
        return part

    async def read_line(self) -> bytes:
        """Return the next line that is in no part; there are few, as forms have no preamble."""
        self._lines_between += 1
        # A megabyte of empty lines before the first part took four seconds.
        if self._lines_between > _MAX_LINES:
            raise ValueError("there are too many lines outside of the parts")
        return await super().read_line()


class MultipartForm:
    """Read one form."""

    __slots__ = (
        "_charset",
        "_form",
        "_left",
        "_limit",
        "_request",
        "_shape",
        "_spool",
        "_texts_left",
    )

    def __init__(self, request: web.Request, shape: FormShape) -> None:
        self._request = request
        self._shape = shape
        self._form: MultiDict[FormValue] = MultiDict()
        self._limit = self._left = request.client_max_size
        self._texts_left = _MAX_TEXTS if shape.files else 0
        self._spool: Spool | None = None
        self._charset = "utf-8"
        """That of texts without a charset of their own."""

    async def read(self) -> MultiDict[FormValue]:
        """Return the fields and files by name, in their order.

        Raises Problem: 400 if the form is malformed, 413 if it is too large or has too many parts,
        415 if a part has an encoding or a charset that is not supported.
        """
        request = self._request
        with reading_parts(_FORM):
            # aiohttp reads the field _charset_ of form-data itself, and loses the next boundary.
            # It also warns of each file name with two semicolons.
            if len(request.headers[CONTENT_TYPE_NAME]) > MAX_CONTENT_TYPE:
                raise ValueError("the Content-Type is too long")
            _, semicolon, boundary = request.headers[CONTENT_TYPE_NAME].partition(";")
            reader = FormReader(
                {CONTENT_TYPE_NAME: f"multipart/mixed{semicolon}{boundary}"},
                await _content_of(request),
                max_field_size=request.protocol.max_field_size,
                max_headers=request.protocol.max_headers,
            )
            reader.max_parts = self._shape.max_parts
            while (part := await reader.next()) is not None:
                assert isinstance(part, PartReader)
                await self._read_part(part)
        return self._form

    async def _read_part(self, part: PartReader) -> None:
        _check_encoding(part.headers)
        name, filename = _names_of(part.headers.get(CONTENT_DISPOSITION, ""))
        shape = self._shape
        content_type = part.headers.get(CONTENT_TYPE_NAME, "")
        media_type = content_type.partition(";")[0].strip().lower()
        # A browser's Blob has always a file name. One of JSON is a field as JSON libraries send it.
        is_json = media_type == "application/json" and name in shape.texts
        is_file = filename is not None and not is_json
        if is_file or (name in shape.files and content_type):
            await self._read_file(part, name, filename or "", content_type)
        elif name == _CHARSET and name not in shape.texts:
            self._charset = (await self._read_text(part)).strip()
            check_charset(self._charset)
        elif name in shape.texts or shape.keeps_unknown:
            self._form.add(name, await self._read_text(part))
        else:
            # The name of a file, without a file: a text was sent in its place.
            if name in shape.files:
                self._form.add(name, "")
            await self._skip(part)

    async def _read_file(
        self, part: PartReader, name: str, filename: str, content_type: str
    ) -> None:
        if name not in self._shape.files:
            if name in self._shape.texts or self._shape.keeps_unknown:
                self._form.add(name, UploadFile(b"", filename))
            await self._skip(part)
            return
        if self._spool is None:
            self._spool = Spool.of(self._request)
        spool = self._spool
        start = spool.size
        while not part.at_eof():
            await spool.write(await self._next_chunk(part))
        size = spool.size - start
        # Browsers send an empty file without a name for a field without a file.
        if size or filename:
            kind = content_type or "application/octet-stream"
            self._form.add(name, UploadFile.stored(spool, start, size, filename, kind))

    async def _read_text(self, part: PartReader) -> str:
        charset = part.get_charset(self._charset)
        data = bytearray()
        while not part.at_eof():
            data += await self._next_chunk(part)
            if 0 < self._texts_left < len(data):
                detail = f"The texts of the form are larger than {_MAX_TEXTS} bytes."
                raise Problem(413, detail)
        if self._texts_left:
            self._texts_left = max(self._texts_left - len(data), 1)
        # Bytes that do not fit become lone surrogates, which the field reports.
        return data.decode(charset, "surrogateescape")

    async def _skip(self, part: PartReader) -> None:
        while not part.at_eof():
            await self._next_chunk(part)

    async def _next_chunk(self, part: PartReader) -> bytes:
        chunk = await part.read_chunk(_CHUNK)
        # The server's connection has this limit, too, and knows of it earlier.
        self._left -= len(chunk)
        if self._left < 0 < self._limit:
            raise Problem(413, f"The request body is larger than {self._limit} bytes.")
        return chunk


async def _content_of(request: web.Request) -> StreamReader:
    """Return the body as a stream, also if a middleware has read the whole body."""
    content = request.content
    if not (content.at_eof() and content.total_bytes):
        return content
    loop = asyncio.get_running_loop()
    body = await request.read()
    again = StreamReader(BaseProtocol(loop), len(body), loop=loop)  # it never pauses a connection
    again.feed_data(body)
    again.feed_eof()
    return again


def _check_encoding(headers: Mapping[str, str]) -> None:
    """Raise Problem (415) if a part is encoded. RFC 7578 section 4.7 deprecates it."""
    for name in (CONTENT_TRANSFER_ENCODING, CONTENT_ENCODING):
        if (coding := headers.get(name, "")).strip().lower() not in _IDENTITY:
            detail = f"A part of the form has a {name}, which is not supported: send its bytes."
            raise Problem(415, detail) from ValueError(coding)


def _names_of(disposition: str) -> tuple[str, str | None]:
    """Return the name and the file name in Content-Disposition, whose syntax has been checked.

    aiohttp cuts slashes at the beginning of both, removes every backslash, and finds no name if the
    file name has two semicolons.
    """
    kind = disposition.partition(";")[0].strip().lower()
    values: dict[str, str] = {}
    for name, value in DISPOSITION_PARAMETERS(disposition):
        key = name.lower()
        if key.endswith("*"):
            # RFC 8187, which RFC 7578 section 4.2 forbids; some clients send it nevertheless.
            charset, _, text = value.split("'", 2)
            values[key] = unquote(text, charset or "utf-8", "strict")
        elif "*" in key:
            raise Problem(400, "A file name of the form is split in several (RFC 2231).")
        elif value.startswith('"'):
            # Only these two are escaped, by curl and others. Browsers send other backslashes as
            # they are, such as those of the path that old ones send.
            values[key] = _ESCAPED.sub(r"\1", value[1:-1])
        else:
            values[key] = value
    name = values.get("name*", values.get("name", ""))
    if kind != "form-data" or not name:
        raise Problem(400, "A part of the form has no Content-Disposition with a name.")
    return name, values.get("filename*", values.get("filename"))
