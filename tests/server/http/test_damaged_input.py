"""Text that comes in damaged is refused, and never replaced by another one in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from aiohttp import BodyPartReader, web

import pubsubtest
from gizmopy import Header, Service, get, post
from tests.server.support import Answer, request, talk


class Example(Service):
    @get("/bound")
    async def bound(self, s: str = "default", n: list[str] = []) -> str:  # noqa: B006
        return ascii([s, n])

    @get("/query")
    async def query(self, request: web.Request) -> str:
        return ascii(list(request.query.items()))

    @get("/number")
    async def number(self, x: float) -> float:
        return x

    @get("/path/{x}")
    async def path(self, x: str) -> str:
        return ascii(x)

    @get("/rest/{x:.*}")
    async def rest(self, request: web.Request) -> str:
        return ascii([request.match_info["x"], request.path])

    @get("/header")
    async def header(self, x: Annotated[str, Header("X-Name")]) -> str:
        return ascii(x)

    @post("/model")
    async def model(self, body: dict[str, Any]) -> str:
        return ascii(body)

    @post("/json")
    async def json(self, request: web.Request) -> str:
        return ascii(await request.json())

    @post("/text")
    async def text(self, request: web.Request) -> str:
        return ascii(await request.text())

    @post("/form")
    async def form(self, request: web.Request) -> str:
        fields = await request.post()
        return ascii(
            [
                (name, value.filename if isinstance(value, web.FileField) else value)
                for name, value in fields.items()
            ]
        )

    @post("/parts/{how}")
    async def parts(self, how: str, request: web.Request) -> str:
        found: list[Any] = []
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            found.append((part.name, part.filename, await getattr(part, how)()))
        return ascii(found)


@asynccontextmanager
async def serving() -> AsyncIterator[pubsubtest.Served[Example]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Example) as served:
        yield served


async def _ask(sent: bytes) -> Answer:
    """Return the response to one request."""
    async with serving() as served, talk(served.url) as client:
        client.send(sent)
        answer = await client.answer()
        await asyncio.get_running_loop().shutdown_default_executor()  # of a form's file
    return answer


def _get(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"GET " + target + b" HTTP/1.1", b"Host: x", *lines, b"", b""))


@pytest.mark.parametrize("path", [b"/bound?", b"/query?"])
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (b"s=%ff", ["s"]),
        (b"s=a%FFb", ["s"]),
        (b"s=%c3", ["s"]),
        (b"s=%c3&n=%a9", ["s", "n"]),
        (b"s=%ed%a0%80", ["s"]),
        (b"s=%f4%90%80%80", ["s"]),
        (b"s=%c0%af", ["s"]),
        (b"n=a&n=%ff", ["n"]),
        (b"%ff=1", [r"\xff"]),
        (b"s=good&%e9t%e9=1", [r"\xe9t\xe9"]),
        (b"unknown=%ff", ["unknown"]),
        (b"s=%ef%bf%bd&n=%ff", ["n"]),
    ],
)
async def test_a_query_that_is_not_utf8_is_refused(
    path: bytes, query: bytes, fields: list[str]
) -> None:
    """It is 422 for values and names, those of unknown parameters too, and names each."""
    problem = (await _ask(_get(path + query))).problem
    assert problem["status"] == 422
    assert [each["field"] for each in problem["errors"]] == fields
    assert {(each["in"], each["type"]) for each in problem["errors"]} == {
        ("query", "string_unicode")
    }


async def test_the_errors_of_a_query_are_limited() -> None:
    """At most a hundred are listed."""
    answer = await _ask(_get(b"/query?" + b"&".join([b"%ff"] * 1000)))
    assert len(answer.problem["errors"]) == 100


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"s=%c3%a9", "é"),
        (b"s=%ef%bf%bd", "\ufffd"),
        (b"s=%F0%9F%90%88", "🐈"),
        (b"s=100%", "100%"),
        (b"s=%zz", "%zz"),
        (b"s=a+b", "a b"),
    ],
)
async def test_a_query_in_utf8_is_decoded(query: bytes, found: str) -> None:
    """U+FFFD is a character like others, if the client sent it."""
    assert (await _ask(_get(b"/query?" + query))).body.decode() == f'"{[("s", found)]!a}"'.replace(
        "\\", "\\\\"
    )


@pytest.mark.parametrize(
    "target", [b"/bound?s=\xff", b"/bound?s=\xc3\xa9", b"/path/\xff", b"/\xe9"]
)
async def test_a_target_has_ascii_characters_only(target: bytes) -> None:
    """Others are not HTTP (RFC 9112 section 3.2)."""
    assert (await _ask(_get(target))).status == 400


@pytest.mark.parametrize("path", [b"/path/", b"/rest/a/"])
@pytest.mark.parametrize("text", [b"%ff", b"a%e9", b"%ed%a0%80"])
async def test_a_path_that_is_not_utf8_matches_no_variable(path: bytes, text: bytes) -> None:
    """It is 404."""
    assert (await _ask(_get(path + text))).status == 404


@pytest.mark.parametrize(("value", "status"), [(b"\xff", 422), (b"\xe9", 422), (b"\xc3\xa9", 200)])
async def test_a_header_that_is_not_utf8_is_refused(value: bytes, status: int) -> None:
    """It is 422 for a parameter."""
    answer = await _ask(_get(b"/header", b"X-Name: " + value))
    assert answer.status == status
    if status == 422:
        assert [each["type"] for each in answer.problem["errors"]] == ["string_unicode"]


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999"])
async def test_a_number_in_a_query_is_finite(value: str) -> None:
    """The document says ``number``, and JSON has no other numbers."""
    problem = (await _ask(_get(f"/number?x={value}".encode()))).problem
    assert [each["type"] for each in problem["errors"]] == ["finite_number"]


@pytest.mark.parametrize(
    ("body", "charset", "status"),
    [
        (b"a=%ff", "", 400),
        (b"a=1&%ff=2", "", 400),
        (b"a=\xff", "", 400),
        (b"a=%c3", "utf-8", 400),
        (b"a=%ff", "us-ascii", 400),
        (b"a=%81", "windows-1252", 400),
        (b"a=%c3%a9", "", 200),
        (b"a=%e9", "iso-8859-1", 200),
        (b"a=%ef%bf%bd", "", 200),
        (b"a=100%", "", 200),
    ],
)
async def test_a_form_fits_its_charset(body: bytes, charset: str, status: int) -> None:
    """Names and values are decoded strictly, also if they are percent-encoded."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    kind += f"; charset={charset}" if charset else ""
    assert (await _ask(request("POST", "/form", body, kind))).status == status


_DISPOSITIONS = {
    b'form-data; name="a"': ("a", None),
    b"form-data;name=a": ("a", None),
    b'form-data; name="a;b"': ("a;b", None),
    b'form-data; name="\xc3\xa9"; filename="\xc3\xa9.txt"': ("é", "é.txt"),
    b'form-data; name="a\\"b"; filename = "c d.txt"': ('a"b', "c d.txt"),
    b"form-data; name=\"a\"; filename*=utf-8''%c3%a9.txt": ("a", "é.txt"),
    b"form-data; name=\"a\"; filename*=UTF-8'en'x.txt": ("a", "x.txt"),
    b'form-data; name="\xff"': None,
    b'form-data; name="a"; filename="\xe9.txt"': None,
    b"form-data; name=\"a\"; filename*=utf-8''%ff.txt": None,
    b"form-data; name=\"a\"; filename*=unknown''x.txt": None,
    b'form-data; name="a"; filename*=x.txt': None,
    b"form-data; name=a b": None,
    b'form-data; name="a"; x': None,
    b'form-data; name="a': None,
    b'form-data; name="a"; name="b"': None,
    b'form-data; name="a"; NAME="b"': None,
    b"=": None,
}


@pytest.mark.parametrize("path", ["/form", "/parts/text"])
@pytest.mark.parametrize(("disposition", "names"), _DISPOSITIONS.items())
async def test_the_name_of_a_part_is_never_left_out(
    path: str, disposition: bytes, names: tuple[str, str | None] | None
) -> None:
    """A Content-Disposition that aiohttp would read in part, or not at all, is 400."""
    body = b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\nv\r\n--b--\r\n"
    answer = await _ask(
        request("POST", path, body, "Content-Type: multipart/form-data; boundary=b")
    )
    if names is None:
        assert answer.status in (400, 415)
        return
    assert answer.status == 200
    for name in filter(None, names):
        assert ascii(name)[1:-1].replace("\\", "\\\\") in answer.body.decode().replace('\\"', '"')


@pytest.mark.parametrize(
    ("how", "content"),
    [
        ("text", b"\xff"),
        ("json", b'["\xff"]'),
        ("json", b"[NaN]"),
        ("json", b"[1e999]"),
        ("json", rb'["\ud800"]'),
        ("form", b"a=%ff"),
        ("form", b"a=\xff"),
    ],
)
async def test_a_damaged_part_is_refused(how: str, content: bytes) -> None:
    """It is 400, by each method that decodes it."""
    body = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n" + content + b"\r\n--b--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b"
    assert (await _ask(request("POST", f"/parts/{how}", body, kind))).status == 400


@pytest.mark.parametrize(
    ("how", "content", "found"),
    [
        ("json", b'\xef\xbb\xbf{"a": 1}', "{'a': 1}"),
        ("json", b"", "None"),
        ("form", b"a=%c3%a9&b=", "[('a', '\\\\xe9'), ('b', '')]"),
    ],
)
async def test_a_part_is_decoded(how: str, content: bytes, found: str) -> None:
    """A byte order mark before JSON is skipped."""
    body = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n" + content + b"\r\n--b--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b"
    answer = await _ask(request("POST", f"/parts/{how}", body, kind))
    assert answer.body.decode() == f"\"[('a', None, {found})]\""


@pytest.mark.parametrize("path", ["/model", "/json"])
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"a": NaN}', 400, "NaN and Infinity are not JSON"),
        (b'{"a": -Infinity}', 400, "NaN and Infinity are not JSON"),
        (b'{"a": "\xff"}', 400, ""),
        (rb'{"a": "\ud800"}', 400, "hex escape"),
        ('{"a": 1}'.encode("utf-16"), 400, ""),
        (b'\xef\xbb\xbf{"a": 1}', 200, ""),
        (b'{"a": "NaN"}', 200, ""),
    ],
)
async def test_a_body_is_json(path: str, body: bytes, status: int, reason: str) -> None:
    """The response says why it is not, and a byte order mark is skipped."""
    answer = await _ask(request("POST", path, body, "Content-Type: application/json"))
    assert answer.status == status
    if status == 400:
        assert reason in answer.problem["detail"]


async def test_a_number_that_is_too_large_names_its_field() -> None:
    """1e999 is JSON, but not a float: a body has the error of its field."""
    sent = request("POST", "/model", b'{"a": 1e999}', "Content-Type: application/json")
    assert [each["type"] for each in (await _ask(sent)).problem["errors"]] == ["finite_number"]
    sent = request("POST", "/json", b'{"a": 1e999}', "Content-Type: application/json")
    assert "a number is too large" in (await _ask(sent)).problem["detail"]


async def test_a_body_that_is_not_utf8_says_so() -> None:
    """The parser's message would be "expected value"."""
    sent = request("POST", "/model", b"\xff\xfe{", "Content-Type: application/json")
    assert "not UTF-8" in (await _ask(sent)).problem["detail"]
