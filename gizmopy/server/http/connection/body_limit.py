"""Limit the decompressed size of a request's body, however a handler reads it.

aiohttp limits ``request.read()`` only. From one megabyte of gzip, a reader of ``request.content``
got a gigabyte, which ``content.read()`` decompressed at once.
"""

from __future__ import annotations

from typing import Protocol, cast

from gizmopy._aiohttp import BaseBodyReader
from gizmopy.web import Problem

_MIN_BUFFER = 1024 * 1024
"""How many bytes may be decompressed before they are read, if the limit is not larger."""


class BodyTooLarge(Exception):
    """Stop the parser in the middle of a body. The parser replaces it by an error of its own."""


class BodyOwner(Protocol):
    """The connection that a body arrives on."""

    max_body: int
    """The most bytes of the body; 0: any number, or the endpoint is not known yet."""

    def refuse_body(self) -> None:
        """Raise Problem (413) in the reader of the body, and read no more of it."""


class BodyReader(BaseBodyReader):
    """The reader of a body that is compressed or sent in chunks.

    The parser makes its readers itself, and these get this class afterwards. So the class cannot
    have attributes of its own. A body of another kind has a Content-Length, which is its size.
    """

    __slots__ = ()

    def set_read_chunk_size(self, n: int) -> None:
        """Buffer up to ``n`` bytes, but not more than the limit: ``read()`` asks for all."""
        limit = cast(BodyOwner, self.connection).max_body
        super().set_read_chunk_size(min(n, max(limit, _MIN_BUFFER)))

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        """Add bytes that have arrived. Raises BodyTooLarge if the body exceeds the limit."""
        owner = cast(BodyOwner, self.connection)
        if 0 < owner.max_body < self.total_bytes + len(data):
            owner.refuse_body()
            raise BodyTooLarge
        return super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Set the error that readers get. A Problem stays: the parser would replace it."""
        if not isinstance(self.exception(), Problem):
            super().set_exception(exc, *cause)


def too_large(limit: int) -> Problem:
    """Return the error for a request whose body has more than ``limit`` bytes."""
    detail = f"The request body is larger than {limit} bytes."
    return Problem(413, detail, headers={"Connection": "close"})
