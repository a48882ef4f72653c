"""Multipart bodies have limits, and malformed ones are not errors of the server."""

import asyncio
import gzip
import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import BodyPartReader, web

import pubsubtest
from gizmopy import Service, Settings, put
from gizmopy.observe import logs
from gizmopy.web import multipart
from tests.server.support import Answer, talk

_NAMED = b"Content-Disposition: form-data; name=a"
_FORM = b"multipart/form-data; boundary=x"
_MIXED = b"multipart/mixed; boundary=x"


class Example(Service):
    @put("/form")
    async def form(self, request: web.Request) -> int:
        return len(await request.post())

    @put("/parts")
    async def parts(self, request: web.Request) -> int:
        return await self._count(await request.multipart())

    @put("/text")
    async def text(self, request: web.Request) -> list[str]:
        parts = await request.multipart()
        return [await part.text() async for part in parts if isinstance(part, BodyPartReader)]

    async def _count(self, reader: Any) -> int:
        count = 0
        async for part in reader:
            if isinstance(part, BodyPartReader):
                await part.read(decode=True)
                count += 1
            else:
                count += await self._count(part)
        return count


async def _put(path: str, kind: bytes, body: bytes) -> Answer:
    async with pubsubtest.serve(Example, settings=Settings()) as served, talk(served.url) as client:
        client.send(
            b"PUT %b HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), kind, len(body), body)
        )
        answer = await client.answer()
        await asyncio.get_running_loop().shutdown_default_executor()
        return answer


def _body(*heads: bytes, content: bytes = b"1") -> bytes:
    return b"".join(b"--x\r\n%b\r\n\r\n%b\r\n" % (head, content) for head in heads) + b"--x--\r\n"


_MALFORMED = {
    "transfer encoding": (_FORM, _body(_NAMED + b"\r\nContent-Transfer-Encoding: foo")),
    "base64": (_FORM, _body(_NAMED + b"\r\nContent-Transfer-Encoding: base64")),
    "parameters": (_FORM, _body(_NAMED + b";" * 16)),
    "content type": (_FORM, _body(_NAMED + b"\r\nContent-Type: text/plain" + b";a=b" * 70)),
    "no part": (_FORM, b"hello"),
    "cut": (_FORM, _body(_NAMED)[:-20]),
}


@pytest.mark.filterwarnings("ignore:form-data:RuntimeWarning")
@pytest.mark.parametrize("path", ["/form", "/parts"])
@pytest.mark.parametrize(("kind", "body"), _MALFORMED.values(), ids=_MALFORMED)
async def test_a_malformed_part_is_refused(
    path: str, kind: bytes, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 400 wherever the part is read, and nothing is logged."""
    assert (await _put(path, kind, body)).status == 400
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize(
    "head", [b"Content-Length: x", b"Content-Encoding: gzip", b"Content-Encoding: x"]
)
async def test_a_malformed_part_of_another_kind_is_refused(head: bytes) -> None:
    """A part that is not a form field can have a length and a compression."""
    assert (await _put("/parts", _MIXED, _body(head, content=b"garbage!"))).status == 400


async def test_reading_parts_of_another_content_type_is_refused() -> None:
    """It is 400 if the Content-Type of the request is not multipart."""
    assert (await _put("/parts", b"text/plain", b"1")).status == 400


@pytest.mark.parametrize("path", ["/form", "/text"])
@pytest.mark.parametrize("charset", [b"punycode", b"idna", b"x-unknown"])
async def test_a_part_has_one_of_the_usual_charsets(path: str, charset: bytes) -> None:
    """Others take quadratic time, or Python caches their names for ever."""
    head = _NAMED + b"\r\nContent-Type: text/plain; charset=" + charset
    assert (await _put(path, _FORM, _body(head))).status == 415


@pytest.mark.parametrize("nested", [False, True])
async def test_the_number_of_parts_is_limited(nested: bool) -> None:
    """A body has at most 1,000 parts, including those of nested bodies."""
    part = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + _body(*[b"X: y"] * 400)
    for fits in (True, False):
        kind, body, expected = _MIXED, _body(*[b"X: y"] * (1000 if fits else 1001)), 1000
        if nested:
            count = 2 if fits else 3
            kind, expected = b"multipart/mixed; boundary=y", 800
            body = b"".join(b"--y\r\n%b\r\n" % part for _ in range(count)) + b"--y--\r\n"
        answer = await _put("/parts", kind, body)
        assert answer.status == (200 if fits else 413)
        assert not fits or answer.body == b"%d" % expected


async def test_other_tasks_run_while_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of empty lines before the first part does not block the event loop."""
    turns = 0
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        nonlocal turns
        turns += 1
        await sleep(seconds)

    monkeypatch.setattr(multipart.asyncio, "sleep", counted)  # type: ignore[attr-defined]
    assert (await _put("/parts", _MIXED, b"\n" * 10_000 + _body(b"X: y"))).body == b"1"
    assert turns >= 100


async def test_the_log_has_no_warning_of_a_part(tmp_path: Path) -> None:
    """aiohttp warns of each malformed Content-Disposition, with its whole text."""
    path = tmp_path / "log"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with logs.configured(destination=str(path)):
            await _put("/parts", _FORM, _body(b"Content-Disposition: hostile=text"))
            warnings.warn("another", stacklevel=1)
    assert "another" in path.read_text()
    assert "hostile" not in path.read_text()


_WHOLE = gzip.compress(b"hello " * 40_000, mtime=0)


@pytest.mark.parametrize(
    ("coding", "content", "text"),
    [
        (b"gzip", _WHOLE, "hello " * 40_000),
        (b"gzip", gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0), "ab"),
        (b"gzip", b"", ""),
        (b"identity", b"a", "a"),
        (b"deflate", zlib.compress(b"abc")[2:-4], "abc"),
        (b"gzip", _WHOLE[:-1], None),
        (b"gzip", _WHOLE[: len(_WHOLE) // 2], None),
        (b"gzip", _WHOLE[:3], None),
        (b"gzip", _WHOLE + b"x", None),
        (b"gzip", _WHOLE[:-8] + b"12345678", None),
        (b"deflate", zlib.compress(b"abc")[2:-5], None),
        (b"br", b"abc", None),
    ],
)
async def test_a_compressed_part_is_whole(coding: bytes, content: bytes, text: str | None) -> None:
    """A part that was cut, or has more than its end, is 400, never a shorter text."""
    head = b"Content-Encoding: %b\r\nContent-Length: %d" % (coding, len(content))
    answer = await _put("/text", _MIXED, _body(head, content=content))
    assert answer.status == (400 if text is None else 200)
    if text is not None:
        assert json.loads(answer.body) == [text]
