"""CloudEvents in requests and responses, by the HTTP binding, from headers that the SDK writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web

from gizmopy import CloudEvent, Problem, Service, post
from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub.cloudevents import data_of, from_http, to_http
from pubsubtest import serve

BINARY = {
    "ce-id": "1234-1234-1234",
    "ce-type": "com.example.someevent",
    "ce-source": "/mycontext/subcontext",
    "ce-specversion": "1.0",
    "ce-time": "2018-04-05T03:56:24Z",
    "content-type": "application/json",
    "ce-partitionkey": "7",
    "ce-subject": "gr%C3%B6%C3%9Fe%201%25",
}
HELLO = b'{"message": "Hello World!"}'
STRUCTURED = {"content-type": "application/cloudevents+json"}
WHOLE = (
    b'{"id": "1234-1234-1234", "type": "com.example.someevent", '
    b'"source": "/mycontext/subcontext", "specversion": "1.0", "time": "2018-04-05T03:56:24Z", '
    b'"datacontenttype": "application/json", "partitionkey": "7", '
    b'"subject": "gr\\u00f6\\u00dfe 1%", "data": {"message": "Hello World!"}}'
)


class Events(Service):
    """Publish the event of a request, and answer with another."""

    @post("/events")
    async def on_event(self, request: web.Request) -> web.Response:
        try:
            message = from_http(request.headers, await request.read())
            event, data = CloudEvent.from_message(message), data_of(message)
        except UndecodableMessage as error:
            raise Problem(400, str(error)) from None
        await self.publish("events", message)
        answer = CloudEvent(type="taken", source="/é", id=event.id, subject=event.subject)
        headers, body = to_http(answer.structured(json.loads(data or b"null")))
        headers.update(to_http(from_http(answer.attributes(), b""))[0])
        return web.Response(headers={**headers, **STRUCTURED}, body=body)


@pytest.mark.parametrize(("headers", "body"), [(BINARY, HELLO), (STRUCTURED, WHOLE)])
async def test_an_event_of_the_sdk_is_read_and_answered(
    headers: Mapping[str, str], body: bytes
) -> None:
    """Both modes give the same event; it is published in its own mode, and one comes back."""
    async with serve(Events) as events:
        async with events.http.post("/events", data=body, headers=dict(headers)) as response:
            answered = await response.json(content_type=None)
        (published,) = events.published("events")
    assert response.status == 200
    assert answered["id"] == "1234-1234-1234"
    assert answered["subject"] == "größe 1%"
    assert answered["data"] == {"message": "Hello World!"}
    assert published.body == body
    if headers is BINARY:
        assert published.attributes["ce-subject"] == "größe 1%"
        assert published.attributes["ce-partitionkey"] == "7"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ce-type": None}, "ce-type are missing"),
        ({"ce-specversion": "0.3"}, "is not supported"),
        ({"ce-subject": "%C0%A0"}, "not percent-encoded UTF-8"),
        ({"ce-time": "yesterday"}, "RFC 3339"),
        ({"content-type": "application/cloudevents-batch+json"}, "is a batch of CloudEvents"),
    ],
)
async def test_a_request_without_a_valid_event_is_refused(
    changes: Mapping[str, Any], problem: str
) -> None:
    """The answer has the reason."""
    headers = {n: text for n, text in {**BINARY, **changes}.items() if text is not None}
    async with (
        serve(Events) as events,
        events.http.post("/events", data=HELLO, headers=headers) as response,
    ):
        answered = await response.json(content_type=None)
    assert response.status == 400
    assert problem in answered["detail"]


async def test_a_header_that_is_there_twice_is_refused() -> None:
    """Two readers would see two events."""
    headers = [*BINARY.items(), ("ce-id", "8")]
    async with (
        serve(Events) as events,
        events.http.post("/events", data=HELLO, headers=headers) as response,
    ):
        answered = await response.json(content_type=None)
    assert response.status == 400
    assert "'ce-id' twice" in answered["detail"]
