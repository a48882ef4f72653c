"""A request on a connection of the server, and the writer of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from gizmopy.server.http.connection.response_writer import AnswerWriter
from gizmopy.web import Request

if TYPE_CHECKING:
    from gizmopy.server.http.connection.protocol import Connection


def new_writer(connection: Connection, method: str) -> AnswerWriter:
    """Return what writes the answer to a request."""
    writer = AnswerWriter(connection, connection.loop)
    if method == "HEAD":
        writer.is_bodiless = True
    return writer


class ServedRequest(Request):
    """A request on a connection of ours."""

    ATTRS = Request.ATTRS | {
        "client",
        "client_scheme",
        "connection",
        "identity",
        "is_invited",
        "is_builtin",
        "is_plain",
        "trace_id",
    }

    connection: Connection
    """The connection that it came on."""
    identity = ""
    """Its id."""
    trace_id = ""
    """The trace that it belongs to, where its caller said so."""
    is_plain = False
    """Whether it is HTTP/1.1, keeps its connection, and wants a body and no other protocol."""

    is_invited = False
    """Whether the client was invited to send the body that it asked about (``Expect``)."""
    is_builtin = False
    """Whether a built-in endpoint answers it, which no page of another origin may read."""

    client: str | None = None
    """The client's address, if a trusted proxy named it."""
    client_scheme = ""
    """The scheme that the client used, if a trusted proxy named it."""

    @property
    def writer(self) -> AnswerWriter:
        """The writer of its answer."""
        writer: AnswerWriter = self.response_writer  # type: ignore[assignment]  # of new_writer
        return writer

    @property
    def remote(self) -> str | None:
        """The client's address; None if it is gone already."""
        return super().remote if self.client is None else self.client

    @property
    def scheme(self) -> str:
        """The scheme that the client used, ``https`` or ``http``."""
        return self.client_scheme or super().scheme

    def start_over(self) -> None:
        """Forget an answer whose head could not be written, and how its body would have been."""
        self.response_writer = new_writer(self.connection, self.method)
        self.connection.prepared = None

    def clone(self, **changes: Any) -> ServedRequest:
        """Return a copy with ``changes``, which is the same request to the door."""
        copy = super().clone(**changes)
        assert isinstance(copy, ServedRequest)
        copy.connection, copy.identity, copy.trace_id = (
            self.connection,
            self.identity,
            self.trace_id,
        )
        copy.client, copy.client_scheme = self.client, self.client_scheme
        copy.is_builtin = self.is_builtin
        return copy

    def before_response(self, response: web.StreamResponse) -> None:
        """Have the handler complete the head of ``response``."""
        self.connection.door.prepare(self, response)
