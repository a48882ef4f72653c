"""The access log: its formats, its files, and lines that are lost."""

import asyncio
import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from gizmopy.observe.access import AccessLog
from tests.support import traced_memory


def _write(access: AccessLog, path: str = "/cats/1", user_agent: str = "curl", **more: Any) -> None:
    request = {"request_id": "r1", "seconds": 0.0012, "size": 27, "remote": "127.0.0.1", **more}
    fixed = access.fixed_part("GET", "/cats/{id}", 200)
    access.write(fixed, path=path, user_agent=user_agent, **request)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0.01)


async def test_a_line_is_json_with_the_fields_of_the_request(tmp_path: Path) -> None:
    """A line has time, method, route, path, status, duration, size, client and request id."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access)

    line = json.loads(path.read_text())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "gizmopy.access",
        "message": "request",
        "method": "GET",
        "route": "/cats/{id}",
        "status": 200,
        "path": "/cats/1",
        "request_id": "r1",
        "duration_ms": 1.2,
        "bytes": 27,
        "remote": "127.0.0.1",
        "user_agent": "curl",
    }


@pytest.mark.parametrize("text", ['"\\\n', "\udcff\x00", "猫", "\x7f\x1b[31m"])
async def test_no_header_breaks_a_line(tmp_path: Path, text: str) -> None:
    """Quotes, newlines, control characters and broken UTF-8 from a client stay one JSON line."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access, user_agent=text)
        _write(access)

    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert "user_agent" in json.loads(lines[0])


async def test_buffered_lines_are_written_together(tmp_path: Path) -> None:
    """A timer writes the buffer while the server runs."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access)
        _write(access)
        assert path.read_text() == ""
        await _until(lambda: path.read_text() != "")

        assert len(path.read_text().splitlines()) == 2


async def test_a_full_buffer_is_written_at_once(tmp_path: Path) -> None:
    """128 lines do not wait for the timer."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        for _ in range(400):
            _write(access, user_agent="x" * 100)
        # Without an await in between: otherwise the timer might write the buffer.
        while path.stat().st_size < 32 * 1024:
            pass


async def test_a_file_is_reopened_after_logrotate(tmp_path: Path) -> None:
    """Lines after the move are in the new file."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access, "/one")
        access.flush()
        await _until(lambda: path.read_text() != "")
        path.rename(tmp_path / "access.1")
        _write(access, "/two")

    assert "/one" in (tmp_path / "access.1").read_text()
    assert "/two" in path.read_text()


async def test_a_write_to_a_pipe_has_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is written at most 4 KiB at a time, so that other writers cannot split a line."""
    reader, writer = os.pipe()
    writes: list[bytes] = []
    real_write = os.write

    def write(file: int, data: bytes) -> int:
        writes.append(bytes(data))
        return real_write(file, data)

    with os.fdopen(writer, "w") as pipe, os.fdopen(reader, "rb") as output:
        monkeypatch.setattr("sys.stdout", pipe)
        monkeypatch.setattr(os, "write", write)
        async with AccessLog("stdout") as access:
            for _ in range(50):
                _write(access, user_agent="x" * 200)
        pipe.close()
        lines = output.read().splitlines()

    assert len(lines) == 50
    assert len(writes) > 1
    assert all(len(data) <= 4096 and data.endswith(b"\n") for data in writes)


async def test_lines_that_cannot_be_written_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk loses lines and logs one error; no request fails."""

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async with AccessLog(str(tmp_path / "access")) as access:
        monkeypatch.setattr(os, "write", full)
        for number in range(3):
            _write(access)
            access.flush()
            await _until(lambda: access.dropped > number)  # noqa: B023 -- awaited here

    assert access.dropped == 3
    assert [record.getMessage() for record in caplog.records] == [
        "access lines are being lost: [Errno 28] No space left on device"
    ]


async def test_off_opens_nothing() -> None:
    """A log that is off opens no file and is not enabled."""
    async with AccessLog("off") as access:
        assert not access.enabled


async def test_the_trace_is_in_the_line(tmp_path: Path) -> None:
    """The line of a request within a trace has the trace id."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access, trace_id="4bf9")

    assert json.loads(path.read_text())["trace_id"] == "4bf9"


async def test_a_path_that_is_not_utf_8_is_logged(tmp_path: Path) -> None:
    """Its bytes are escaped; the request does not fail because of its log line."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access, path="/\udcff")

    assert json.loads(path.read_text())["path"] == r"/\udcff"


async def test_a_line_in_apaches_combined_format(tmp_path: Path) -> None:
    """Address, time in UTC, request line, status, bytes, referer and user agent."""
    path = tmp_path / "access"
    async with AccessLog(str(path), format="combined") as access:
        _write(access, referer="https://cats.example/", protocol="HTTP/1.0")
        _write(access, user_agent="", size=0, remote="")

    first, second = path.read_text().splitlines()
    assert re.fullmatch(
        r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000\] "
        r'"GET /cats/1 HTTP/1\.0" 200 27 "https://cats\.example/" "curl"',
        first,
    )
    assert second.startswith("- - - [")
    assert second.endswith('"GET /cats/1 HTTP/1.1" 200 - "-" "-"')


async def test_months_are_english_in_every_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The format of Apache does not depend on the locale."""
    path = tmp_path / "access"
    monkeypatch.setattr(time, "time", lambda: 971186136.9)
    async with AccessLog(str(path), format="combined") as access:
        _write(access)

    assert "[10/Oct/2000:13:55:36 +0000]" in path.read_text()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ('a" 200 1 "-" "b', r"a\" 200 1 \"-\" \"b"),
        ("a\n127.0.0.1", r"a\n127.0.0.1"),
        ("\\", r"\\"),
        ("\r\t\v\b", r"\r\t\v\b"),
        ("\x00\x1b[2J\x7f", r"\x00\x1b[2J\x7f"),
        ("é\udcff", r"\xc3\xa9\xff"),
    ],
)
async def test_a_client_cannot_forge_a_combined_line(
    tmp_path: Path, text: str, escaped: str
) -> None:
    """Each text of a client is escaped as Apache does it."""
    path = tmp_path / "access"
    async with AccessLog(str(path), format="combined") as access:
        _write(access, path=text, user_agent=text, referer=text, remote=text)

    (line,) = path.read_text().splitlines()
    assert line.startswith(f"{escaped} - - [")
    assert line.endswith(f'"GET {escaped} HTTP/1.1" 200 27 "{escaped}" "{escaped}"')


async def test_a_line_for_google_cloud(tmp_path: Path) -> None:
    """It has an ``httpRequest``, with 64-bit numbers as text."""
    path = tmp_path / "access"
    async with AccessLog(str(path), fields="gcp") as access:
        _write(access, referer='"', trace_id="4bf9")

    line = json.loads(path.read_text())
    assert line.pop("time").endswith("Z")
    assert line == {
        "severity": "INFO",
        "logger": "gizmopy.access",
        "message": "request",
        "route": "/cats/{id}",
        "httpRequest": {
            "requestMethod": "GET",
            "status": 200,
            "requestUrl": "/cats/1",
            "protocol": "HTTP/1.1",
            "responseSize": "27",
            "latency": "0.001200s",
            "remoteIp": "127.0.0.1",
            "userAgent": "curl",
            "referer": '"',
        },
        "request_id": "r1",
        "logging.googleapis.com/trace": "4bf9",
    }


@pytest.mark.parametrize("fields", ["plain", "gcp"])
async def test_a_line_on_a_terminal_is_short(
    tmp_path: Path, fields: Literal["plain", "gcp"]
) -> None:
    """It is plain text without control characters of a client."""
    path = tmp_path / "access"
    async with AccessLog(str(path), log_json=False, fields=fields) as access:
        _write(access, path="/\x9b2J")

    assert path.read_text()[8:] == " GET    200 /\\xc2\\x9b2J 1.2ms 27B request_id=r1\n"


async def test_a_reader_that_stalls_blocks_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines that exceed the queue are dropped, counted and reported once; the exit is prompt."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe, os.fdopen(reader, "rb") as output:
        monkeypatch.setattr("sys.stdout", pipe)
        async with AccessLog("stdout") as access:
            while access.dropped < 1000:
                _write(access, user_agent="x" * 2000)
        output.close()  # which ends the writer's thread

    assert [record.getMessage() for record in caplog.records] == [
        "access lines are being lost: the reader of the log is too slow"
    ]


async def test_a_stream_without_a_descriptor_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that a program or a test has set gets the lines."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    async with AccessLog("") as access:
        _write(access)

    assert json.loads(stream.getvalue())["path"] == "/cats/1"


_STYLES = [{}, {"fields": "gcp"}, {"format": "combined"}, {"log_json": False}]


@pytest.mark.parametrize("style", _STYLES)
@pytest.mark.parametrize("length", [16_000, 1_000, 150])
async def test_clients_cannot_fill_the_memory(
    tmp_path: Path, style: dict[str, Any], length: int
) -> None:
    """For any number and length of texts, the caches hold at most a megabyte."""
    async with AccessLog(str(tmp_path / "access"), **style) as access:
        with traced_memory() as taken:
            for number in range(3000):
                text = f"{number}".ljust(length, "\x01")
                _write(access, path=text, user_agent=text, referer=text, remote=text[:100])
            access.flush()
            assert taken() < 1024 * 1024


async def test_buffered_lines_are_small(tmp_path: Path) -> None:
    """The texts of a request are cut before the line is buffered."""
    async with AccessLog(str(tmp_path / "access")) as access:
        with traced_memory() as taken:
            for number in range(127):
                text = f"{number}".ljust(16_000)
                _write(access, path=text, user_agent=text[:-1], referer=text[:-2])
            assert (tmp_path / "access").stat().st_size == 0  # all of them are buffered
            assert taken() < 1024 * 1024


async def test_a_text_that_is_cut_ends_with_its_length(tmp_path: Path) -> None:
    """1,024 characters of a path, a user agent and a referer are written, and the length."""
    path = tmp_path / "access"
    async with AccessLog(str(path), fields="gcp") as access:
        _write(access, path="/" + "p" * 8000, user_agent="u" * 1025, referer="r" * 1024)

    request = json.loads(path.read_text())["httpRequest"]
    assert request["requestUrl"] == f"/{'p' * 1023}… (8001 characters)"
    assert request["userAgent"] == f"{'u' * 1024}… (1025 characters)"
    assert request["referer"] == "r" * 1024
