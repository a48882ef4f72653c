"""A body with very many wrong values costs little, in a message and in a request."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from gizmopy import Message, Reject, Service, post, subscribe
from gizmopy.observe.logs import JSONFormatter
from pubsubtest import serve

FLOOD = b"[" + b'"", ' * 250_000 + b'""]'
"""A megabyte of JSON, none of whose values is a number."""
UNDER_A_LONG_KEY = b'{"' + b"k" * 20_000 + b'": [' + b'"", ' * 10_000 + b'""]}'
"""60 KB, of which pydantic made errors of 194 MB: each has a copy of the key."""
LIMIT = 1100
"""1,024 characters, and the note that says how many there were."""


class Numbers(BaseModel):
    numbers: list[int]


class Texts(BaseModel):
    numbers: list[str]


class Lists(BaseModel):
    lists: dict[str, list[int]]


class Floods(Service):
    @subscribe("numbers", dead_letter="dead", max_deliveries=1)
    async def on_numbers(self, numbers: list[int]) -> None: ...

    @subscribe("lists", dead_letter="dead", max_deliveries=1)
    async def on_lists(self, lists: dict[str, list[int]]) -> None: ...

    @subscribe("bytes", dead_letter="dead", max_deliveries=1)
    async def on_bytes(self, message: Message) -> None:
        Numbers.model_validate_json(b'{"numbers": ' + FLOOD + b"}")

    @subscribe("texts", dead_letter="dead", max_deliveries=1)
    async def on_text(self, text: str) -> None:
        raise ValueError(text)

    @subscribe("rejected", dead_letter="dead", max_deliveries=1)
    async def on_rejected(self, text: str) -> None:
        raise Reject(text)

    @post("/numbers")
    async def post_numbers(self, numbers: Numbers) -> None: ...

    @post("/lists")
    async def post_lists(self, lists: Lists) -> None: ...

    @post("/strings")
    async def post_strings(self, texts: Texts) -> None:
        Numbers.model_validate(texts.model_dump())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged failures as they are written."""
    failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert failures
    return [JSONFormatter().format(record) for record in failures]


@pytest.mark.parametrize(
    ("topic", "value", "says"),
    [
        ("numbers", FLOOD, "UndecodableMessage: 0: Input should be a valid integer"),
        ("numbers", b"[" + b"[]," * 200 + b"1]", "200 values are wrong in list[int], too many"),
        ("lists", UNDER_A_LONG_KEY, "UndecodableMessage: kkk"),
        ("bytes", b"", "250001 values are wrong in Numbers, too many to list"),
        ("texts", "x" * 10**6, "ValueError: xxx"),
        ("rejected", "x" * 10**6, "Reject: xxx"),
    ],
)
async def test_the_report_of_a_flood_in_a_message_is_short(
    topic: str, value: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the log nor the dead letter repeats a megabyte."""
    async with serve(Floods) as served:
        assert await served.deliver(topic, value) == "dead_letter"
        (dead,) = served.published("dead")
    assert says in dead.attributes["gizmo-dl-exception"]
    assert all(len(text) < LIMIT for text in dead.attributes.values())
    assert any(says in line for line in lines(caplog))
    assert max(len(line) for line in lines(caplog)) < 20 * LIMIT


@pytest.mark.parametrize("topic", ["texts", "rejected"])
async def test_a_dead_letter_has_no_terminal_escapes(topic: str) -> None:
    """An error that quotes its message is escaped in the attributes: no line can be forged."""
    async with serve(Floods) as served:
        await served.deliver(topic, "cat\r\nERROR \x1b[2J\x9b31m\u202e\u2028")
        (dead,) = served.published("dead")
    written = {name: text for name, text in dead.attributes.items() if name.startswith("gizmo-dl-")}
    assert written["gizmo-dl-exception"].endswith(r": cat\r\nERROR \x1b[2J\x9b31m\u202e\u2028")
    assert all(text.isprintable() for text in written.values())


async def test_the_report_of_a_flood_in_a_request_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer has the number of wrong values; the log of a failing handler is short too."""
    headers, body = {"Content-Type": "application/json"}, b'{"numbers": ' + FLOOD + b"}"
    async with serve(Floods) as served:
        async with served.http.post("/numbers", data=body, headers=headers) as response:
            details = await response.json(content_type=None)
        assert (response.status, len(details["errors"])) == (422, 1)
        assert details["errors"][0]["field"] == "numbers.0"
        long = b'{"lists": ' + UNDER_A_LONG_KEY + b"}"
        async with served.http.post("/lists", data=long, headers=headers) as response:
            details = await response.json(content_type=None)
        assert (response.status, len(details["errors"])) == (422, 1)
        assert details["errors"][0]["field"].startswith("lists.kkk")
        async with served.http.post("/strings", data=body, headers=headers) as response:
            assert response.status == 500
    assert any("250001 values are wrong in Numbers" in line for line in lines(caplog))
    assert max(len(line) for line in lines(caplog)) < 20 * LIMIT


async def test_a_long_path_is_quoted_in_part() -> None:
    """An answer that quotes the path quotes a kilobyte of it."""
    async with serve(Floods) as served:
        async with served.http.get("/" + "x" * 7000) as response:
            assert response.status == 404
            assert len((await response.json(content_type=None))["detail"]) < LIMIT
