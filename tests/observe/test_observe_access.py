"""Access lines: whole, in order, and never in the way."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from gizmopy.observe.access import AccessLog


def _write(access: AccessLog, path: str = "/cats/1", user_agent: str = "curl") -> None:
    access.write(
        access.fixed_part("GET", "/cats/{id}", 200),
        request_id="r1",
        path=path,
        seconds=0.0012,
        size=27,
        remote="127.0.0.1",
        user_agent=user_agent,
    )


async def test_a_line_is_json_with_what_the_request_was(tmp_path: Path) -> None:
    """A line says time, method, route, path, status, duration, size, client and request id."""
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


async def test_lines_are_written_together_within_a_moment(tmp_path: Path) -> None:
    """Lines wait in a buffer, and come out by themselves while the server goes on."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access)
        _write(access)
        assert path.read_text() == ""
        async with asyncio.timeout(5):
            while not path.read_text():  # noqa: ASYNC110 -- a file tells nobody
                await asyncio.sleep(0.01)

        assert len(path.read_text().splitlines()) == 2


async def test_a_full_buffer_is_written_at_once(tmp_path: Path) -> None:
    """32 KiB of lines do not wait for the timer."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        for _ in range(400):
            _write(access, user_agent="x" * 100)
        assert path.stat().st_size >= 32 * 1024


async def test_a_file_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    """The access log survives logrotate."""
    path = tmp_path / "access"
    async with AccessLog(str(path)) as access:
        _write(access, "/one")
        access.flush()
        path.rename(tmp_path / "access.1")
        _write(access, "/two")

    assert "/one" in (tmp_path / "access.1").read_text()
    assert "/two" in path.read_text()


async def test_a_write_to_a_pipe_holds_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe shared with others is written at most 4 KiB at a time, each write ending a line."""
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
    """A full disk costs the lines and one error record, never the request."""

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    async with AccessLog(str(tmp_path / "access")) as access:
        monkeypatch.setattr(os, "write", full)
        for _ in range(3):
            _write(access)
            access.flush()

    assert access.dropped == 3
    assert [record.getMessage() for record in caplog.records] == [
        "access lines are being lost: [Errno 28] No space left on device"
    ]


async def test_off_opens_nothing() -> None:
    """Switched off, it is no file and not enabled."""
    async with AccessLog("off") as access:
        assert not access.enabled
