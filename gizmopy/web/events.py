"""Server-sent events, as the HTML standard defines them.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Generic, TypeAlias, TypeVar

from gizmopy.web.annotations import Header

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"

# Not str.splitlines(): it also splits at U+2028 and others, where the client's parser does not.
_LINE_END = re.compile(r"\r\n|\r|\n")


class Event(Generic[T]):
    """Send one server-sent event with more than its data.

    ``data`` is text, which is sent as it is, or any other value, which is sent as JSON; None: the
    client sets ``id`` and ``retry``, and dispatches no event. ``event`` is its type (default: the
    client's, ``message``). The client sends ``id`` as Last-Event-ID when it reconnects. ``retry``
    is how many milliseconds it waits before that. A ``comment`` is ignored by the client.

    Raises ValueError for a line break in ``id`` or ``event``, a NUL in ``id``, or a ``retry`` that
    is not an integer from 0: the client would read other fields from it, or ignore it.
    """

    __slots__ = ("comment", "data", "event", "id", "retry")

    def __init__(
        self,
        data: T | None = None,
        *,
        event: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        comment: str | None = None,
    ) -> None:
        if data is None and event is None and id is None and retry is None and comment is None:
            raise ValueError("an Event has no field; set data=, id=, retry= or comment=")
        if retry is not None and (type(retry) is not int or retry < 0):
            raise ValueError(f"retry={retry!r} is not a number of milliseconds; use an int from 0")
        self.data = data
        self.event = None if event is None else _line("event", event)
        self.id = None if id is None else _line("id", str(id))
        if self.id is not None and "\0" in self.id:
            raise ValueError(f"id={self.id!r} has a NUL, and the client would ignore it")
        self.retry = retry
        self.comment = comment

    def __repr__(self) -> str:
        """Return the fields that are set."""
        fields = ((name, getattr(self, name)) for name in ("data", "event", "id", "retry"))
        return f"Event({', '.join(f'{name}={value!r}' for name, value in fields if value)})"


EventStream: TypeAlias = AsyncIterator[T | Event[T]]
"""The result of an endpoint that sends server-sent events, each a value or an Event.

``async def prices(self) -> EventStream[Price]: …`` is an async generator, or returns one.
"""

LastEventID = Annotated[str | None, Header("Last-Event-ID")]
"""A parameter with the id of the last event that a client received; None at its first connection.

``async def prices(self, last: LastEventID = None) -> EventStream[Price]: …``
"""

KEEP_ALIVE = b":\n\n"
"""A comment: proxies close a connection that is silent for a minute or so."""


def _line(name: str, value: str) -> str:
    if _LINE_END.search(value):
        raise ValueError(f"{name}={value!r} has a line break, which would begin another field")
    return value


def encode_event(event: Event[object], data: str | None) -> bytes:
    """Return an event as the stream has it; ``data`` is its encoded data."""
    lines = []
    if event.comment is not None:
        lines += [f": {line}" for line in _LINE_END.split(event.comment)]
    if event.event is not None:
        lines.append(f"event: {event.event}")
    if event.id is not None:
        lines.append(f"id: {event.id}")
    if event.retry is not None:
        lines.append(f"retry: {event.retry}")
    if data is not None:
        lines += [f"data: {line}" for line in _LINE_END.split(data)]
    return "\n".join((*lines, "", "")).encode()


def encode_data(data: str) -> bytes:
    """Return an event that has nothing but its data."""
    return "".join((*(f"data: {line}\n" for line in _LINE_END.split(data)), "\n")).encode()
