"""The readers of bodies: they decompress a body, and limit its size, however a handler reads it.

aiohttp limits ``request.read()`` only. From one megabyte of gzip, a reader of ``request.content``
got a gigabyte, which ``content.read()`` decompressed at once.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Protocol, cast

from aiohttp import web

from gizmopy._aiohttp import BaseBodyReader
from gizmopy.server.http.connection.content_coding import Decompressor
from gizmopy.web import Problem

_MIN_BUFFER = 1024 * 1024
"""How many bytes may be decompressed before they are read, if the limit is not larger."""


class BodyRefused(Exception):
    """Stop the parser in the middle of a body. The parser replaces it by an error of its own."""


class BodyOwner(Protocol):
    """The connection that a body arrives on."""

    max_body: int
    """The most bytes of the body; 0: no limit, or the endpoint is not known yet."""
    decompressor: Decompressor | None
    """The decompressor of the body; None if it is not compressed."""

    def fail_body(self, error: Exception) -> None:
        """Raise ``error`` in the reader of the body, and read no more of it."""


class PlainBodyReader(BaseBodyReader):
    """The reader of a body with a Content-Length that is not compressed.

    The parser makes its readers itself, and these get this class afterwards. So the class cannot
    have attributes of its own.
    """

    __slots__ = ()

    async def readexactly(self, n: int) -> bytes:
        """Return ``n`` bytes. Raises Problem (400) if the body has fewer: its client is wrong."""
        try:
            return await super().readexactly(n)
        except asyncio.IncompleteReadError as error:
            raise Problem(400, "The request body is too short.") from error


class BodyReader(PlainBodyReader):
    """The reader of a body that is compressed or sent in chunks: its size is not known before."""

    __slots__ = ()

    def set_read_chunk_size(self, n: int) -> None:
        """Buffer up to ``n`` bytes, but not more than the limit: ``read()`` asks for all."""
        limit = cast(BodyOwner, self.connection).max_body
        super().set_read_chunk_size(min(n, max(limit, _MIN_BUFFER)))

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        """Add bytes that have arrived; return whether the parser must call again, without bytes.

        Raises BodyRefused if the body exceeds the limit, or cannot be decompressed.
        """
        owner = cast(BodyOwner, self.connection)
        decompressor = owner.decompressor
        if decompressor is not None:
            if data:
                decompressor.add(data)
            try:
                data = decompressor.take()
            except zlib.error as error:
                raise self._refuse(owner, _malformed(error)) from error
        if 0 < owner.max_body < self.total_bytes + len(data):
            raise self._refuse(owner, too_large(owner.max_body))
        super().feed_data(data, size)
        return decompressor is not None and decompressor.has_more

    def feed_eof(self) -> None:
        """End the body, or fail it if compressed data is missing."""
        owner = cast(BodyOwner, self.connection)
        if owner.decompressor is None or owner.decompressor.is_whole:
            super().feed_eof()
        else:
            owner.fail_body(_malformed("the end of the compressed data is missing"))

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Set the error that readers get. The first one stays: the parser would replace it."""
        if not isinstance(self.exception(), Problem | web.RequestPayloadError):
            super().set_exception(exc, *cause)

    def _refuse(self, owner: BodyOwner, error: Exception) -> BodyRefused:
        owner.fail_body(error)
        return BodyRefused()


def _malformed(reason: object) -> web.RequestPayloadError:
    return web.RequestPayloadError(f"the body cannot be decompressed: {reason}")


def too_large(limit: int) -> Problem:
    """Return the error for a request whose body has more than ``limit`` bytes."""
    detail = f"The request body is larger than {limit} bytes."
    return Problem(413, detail, headers={"Connection": "close"})
