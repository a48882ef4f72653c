"""Bound the body of a request for each way to read it, counted as it is decompressed.

aiohttp bounds ``request.read()`` only. A reader of ``request.content`` got a gigabyte from one
megabyte of gzip, which ``content.read()`` decompressed in one go.
"""

from __future__ import annotations

from typing import Protocol, cast

from gizmopy._aiohttp import BaseBodyReader
from gizmopy.web import Problem

_AT_ONCE = 1024 * 1024
"""How many bytes are decompressed before they are read, if the limit is not larger."""


class BodyTooLarge(Exception):
    """Stop the parser in the middle of a body; it turns every error into another one."""


class BodyOwner(Protocol):
    """The connection that a body comes on."""

    max_body: int
    """How many bytes the body may have; 0: any, or the endpoint is not known yet."""

    def refuse_body(self) -> None:
        """Raise a Problem (413) in the reader of the body, and read no more of it."""


class BodyReader(BaseBodyReader):
    """Hold the bytes of a body that have come.

    The parser makes its readers itself. Those of a body that is compressed or comes in chunks
    become this class afterwards, which has no attributes of its own for that reason. The
    size of any other body is known by its length.
    """

    __slots__ = ()

    def set_read_chunk_size(self, n: int) -> None:
        """Let ``n`` bytes wait to be read, but not more than the limit: ``read()`` asks for all."""
        limit = cast(BodyOwner, self.connection).max_body
        super().set_read_chunk_size(min(n, max(limit, _AT_ONCE)))

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        """Take bytes that have come. Raises BodyTooLarge if they exceed the limit."""
        owner = cast(BodyOwner, self.connection)
        if 0 < owner.max_body < self.total_bytes + len(data):
            owner.refuse_body()
            raise BodyTooLarge
        return super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Raise ``exc`` in the reader, but a Problem stays: the parser has its own error for it."""
        if not isinstance(self.exception(), Problem):
            super().set_exception(exc, *cause)


def too_large(limit: int) -> Problem:
    """Return the answer to a request whose body has more than ``limit`` bytes."""
    detail = f"The request body is larger than {limit} bytes."
    return Problem(413, detail, headers={"Connection": "close"})
