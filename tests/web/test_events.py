"""The fields of server-sent events, and how they are written."""

from __future__ import annotations

from typing import Any

import pytest

from gizmopy import Event
from gizmopy.web.events import encode_data, encode_event


@pytest.mark.parametrize(
    ("event", "data", "expected"),
    [
        (Event("x"), "x", "data: x\n\n"),
        (Event("x"), "", "data: \n\n"),
        (Event("x"), " x\n", "data:  x\ndata: \n\n"),
        (Event("x", id="", event=""), "x", "event: \nid: \ndata: x\n\n"),
        (Event("x", id=0, retry=0), "x", "id: 0\nretry: 0\ndata: x\n\n"),
        (Event(comment="a\rb"), None, ": a\n: b\n\n"),
        (Event(id=7), None, "id: 7\n\n"),
    ],
)
def test_an_event_is_written_by_the_standard(
    event: Event[Any], data: str | None, expected: str
) -> None:
    """Each line of the data is a field, and an empty line ends the event."""
    assert encode_event(event, data) == expected.encode()


@pytest.mark.parametrize("text", ["", "a", "a\nb", "a\r\nb\rc\n", "a\u2028b\x0bc\x85d", "ü"])
def test_data_alone_is_written_as_in_an_event(text: str) -> None:
    """Only the three line ends of the standard separate lines."""
    assert encode_data(text) == encode_event(Event("x"), text)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": "1\n"}, "id='1.n' has a line break"),
        ({"id": "1\rdata: x"}, "has a line break"),
        ({"id": "1\0"}, "has a NUL"),
        ({"event": "a\nb"}, "event='a.nb' has a line break"),
        ({"retry": -1}, "retry=-1 is not a number of milliseconds"),
        ({"retry": 1.5}, "retry=1.5 is not"),
        ({"retry": True}, "retry=True is not"),
        ({"retry": "5"}, "retry='5' is not"),
        ({}, "an Event has no field"),
    ],
)
def test_a_field_that_would_be_another_one_is_refused(fields: Any, reason: str) -> None:
    """The error is raised where the event is made."""
    with pytest.raises(ValueError, match=reason):
        Event(**fields)


def test_an_event_shows_its_fields() -> None:
    """For logs and tests."""
    assert repr(Event("a", id=3)) == "Event(data='a', id='3')"
