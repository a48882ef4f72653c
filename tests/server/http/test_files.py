"""Files as responses: parts of them, conditions, names, and what is no file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest
from multidict import CIMultiDictProxy
from yarl import URL

import pubsubtest
from gizmopy import FileResponse, Service, get, post
from pubsubtest.serve import Served

BODY = bytes(range(256)) * 1000
SIZE = len(BODY)


class Files(Service):
    folder: ClassVar[Path]

    @get("/file")
    async def file(self) -> FileResponse:
        return FileResponse(self.folder / "file.bin")

    @post("/file")
    async def posted(self) -> FileResponse:
        return FileResponse(self.folder / "file.bin")

    @get("/below/{path:.*}", unsafe_path=True)
    async def below(self, path: str) -> FileResponse:
        return FileResponse(path, root=self.folder / "root")

    @get("/any")
    async def any(self, name: str) -> FileResponse:
        return FileResponse(self.folder / name)

    @get("/named")
    async def named(self, name: str, inline: bool = False) -> FileResponse:
        kind = "inline" if inline else "attachment"
        return FileResponse(
            self.folder / "file.bin",
            filename=name,
            disposition="inline" if kind == "inline" else "attachment",
            media_type="text/csv",
        )


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Served[Files]]:
    """A service with a file, a folder and a named pipe."""
    (tmp_path / "file.bin").write_bytes(BODY)
    (tmp_path / "empty").touch()
    (tmp_path / "data.csv.gz").write_bytes(b"gz")
    os.mkfifo(tmp_path / "pipe")
    root = tmp_path / "root"
    root.mkdir()
    (root / "in.txt").write_text("in")
    (root / "out.txt").symlink_to(tmp_path / "file.bin")
    (root / "loop").symlink_to(root / "loop")
    Files.folder = tmp_path
    async with pubsubtest.serve(Files) as served:
        yield served
    await asyncio.get_running_loop().shutdown_default_executor()


async def ask(
    files: Served[Files], path: str = "/file", method: str = "GET", **headers: str
) -> tuple[int, CIMultiDictProxy[str], bytes]:
    """Return status, headers and body; underscores in names of headers are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("Accept-Encoding", "identity")
    async with files.http.request(method, path, headers=named) as response:
        return response.status, response.headers, await response.read()


async def test_a_whole_file(files: Served[Files]) -> None:
    """It has a length, an ETag, a date and a media type."""
    status, headers, body = await ask(files)
    assert (status, body) == (200, BODY)
    assert headers["Content-Length"] == str(SIZE)
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Accept-Ranges"] == "bytes"
    assert "ETag" in headers
    assert "Last-Modified" in headers
    assert "Content-Disposition" not in headers


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=255999-", SIZE - 1, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("bytes=-999999999", 0, SIZE),
        ("Bytes=5-999999999", 5, SIZE),
    ],
)
async def test_one_range_is_sent(given: str, start: int, end: int, files: Served[Files]) -> None:
    """206 with the part and its place."""
    status, headers, body = await ask(files, Range=given)
    assert (status, body) == (206, BODY[start:end])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert headers["Content-Length"] == str(end - start)


@pytest.mark.parametrize("given", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE}-{SIZE + 5}"])
async def test_a_range_outside_of_the_file_is_416(given: str, files: Served[Files]) -> None:
    """The problem says how long the file is."""
    status, headers, _ = await ask(files, Range=given)
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{SIZE}"
    assert headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "given",
    ["bytes=0-1,5-6", "items=0-1", "bytes=5-1", "bytes=-", "bytes=a-b", "bytes=" + "9" * 5000],
)
async def test_a_range_that_is_not_understood_is_ignored(given: str, files: Served[Files]) -> None:
    """The client gets the whole file, as RFC 9110 section 14.2 allows."""
    status, _, body = await ask(files, Range=given)
    assert (status, body) == (200, BODY)


async def test_a_range_is_for_get_alone(files: Served[Files]) -> None:
    """HEAD says the length of the whole file, and POST sends it."""
    status, headers, body = await ask(files, method="HEAD", Range="bytes=0-1")
    assert (status, headers["Content-Length"], body) == (200, str(SIZE), b"")
    status, _, body = await ask(files, method="POST", Range="bytes=0-1")
    assert (status, body) == (200, BODY)


async def test_an_empty_file_has_no_range(files: Served[Files]) -> None:
    """It is sent whole."""
    status, headers, body = await ask(files, "/any?name=empty", Range="bytes=0-5")
    assert (status, headers["Content-Length"], body) == (200, "0", b"")


async def test_if_range_with_another_version_sends_the_whole_file(files: Served[Files]) -> None:
    """Else a client would append the part of a new file to the beginning of an old one."""
    _, headers, _ = await ask(files)
    etag, date = headers["ETag"], headers["Last-Modified"]
    old = "Mon, 01 Jan 2001 00:00:00 GMT"
    for given, status in ((etag, 206), (date, 206), ('"x"', 200), (f"W/{etag}", 200), (old, 200)):
        answer, _, body = await ask(files, Range="bytes=0-1", If_Range=given)
        assert (answer, len(body)) == (status, 2 if status == 206 else SIZE), given


async def test_a_client_that_has_the_file_gets_304(files: Served[Files]) -> None:
    """If-None-Match counts, and If-Modified-Since without it."""
    _, headers, _ = await ask(files)
    etag, date = headers["ETag"], headers["Last-Modified"]
    for method in ("GET", "HEAD"):
        for given in (etag, f'"x", W/{etag}', "*"):
            status, headers, body = await ask(files, method=method, If_None_Match=given)
            assert (status, headers["ETag"], body) == (304, etag, b"")
        assert (await ask(files, method=method, If_Modified_Since=date))[0] == 304
    status, *_ = await ask(files, If_None_Match='"x"', If_Modified_Since=date)
    assert status == 200


async def test_a_client_with_another_version_gets_412(files: Served[Files]) -> None:
    """If-Match compares strongly."""
    _, headers, _ = await ask(files)
    etag, date = headers["ETag"], headers["Last-Modified"]
    old = "Mon, 01 Jan 2001 00:00:00 GMT"
    assert (await ask(files, If_Match=etag))[0] == 200
    assert (await ask(files, If_Match=f"W/{etag}"))[0] == 412
    assert (await ask(files, If_Unmodified_Since=date))[0] == 200
    assert (await ask(files, If_Unmodified_Since=old))[0] == 412


@pytest.mark.parametrize(
    "path",
    [
        "/any?name=missing",
        "/any?name=pipe",
        "/any?name=root",
        "/any?name=file.bin/x",
        "/any?name=" + "x" * 300,
        "/any?name=%00",
        "/below/../file.bin",
        "/below/%2E%2E/file.bin",
        "/below//etc/passwd",
        "/below/out.txt",
        "/below/loop",
        "/below/",
    ],
)
async def test_what_is_no_file_is_404(path: str, files: Served[Files]) -> None:
    """Also what is outside of the root; the answer does not say where the service looked."""
    url = URL(files.url + path, encoded=True)
    async with files.http.get(url) as response:
        assert response.status == 404
        text = await response.text()
    assert str(Files.folder) not in text


async def test_a_file_below_the_root_is_sent(files: Served[Files]) -> None:
    """Its type is that of its extension."""
    status, headers, body = await ask(files, "/below/in.txt")
    assert (status, headers["Content-Type"], body) == (200, "text/plain", b"in")


async def test_a_compressed_file_is_sent_as_it_is(files: Served[Files]) -> None:
    """It is not the content coding of another file."""
    _, headers, body = await ask(files, "/any?name=data.csv.gz")
    assert (headers["Content-Type"], body) == ("application/gzip", b"gz")
    assert "Content-Encoding" not in headers
    status, *_ = await ask(files, "/any?name=data.csv", Accept_Encoding="gzip")
    assert status == 404


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", 'attachment; filename="a.csv"'),
        ("a b'.csv", 'attachment; filename="a b\'.csv"'),
        ("ü.csv", "attachment; filename=\"_.csv\"; filename*=UTF-8''%C3%BC.csv"),
        ('a".csv', "attachment; filename=\"a_.csv\"; filename*=UTF-8''a%22.csv"),
        ("../a\\b", "attachment; filename=\".._a_b\"; filename*=UTF-8''.._a_b"),
        ("a\r\nX: 1", "attachment; filename=\"a__X: 1\"; filename*=UTF-8''a__X%3A%201"),
    ],
)
async def test_a_file_has_a_name(name: str, expected: str, files: Served[Files]) -> None:
    """RFC 6266: a plain form for all clients, and one for every character."""
    _, headers, _ = await ask(files, f"/named?name={quote(name)}")
    assert headers["Content-Disposition"] == expected
    assert headers["Content-Type"] == "text/csv"


async def test_a_name_may_be_inline(files: Served[Files]) -> None:
    """The browser shows the file."""
    _, headers, _ = await ask(files, "/named?name=a&inline=true")
    assert headers["Content-Disposition"] == 'inline; filename="a"'


async def test_a_file_that_may_not_be_read_is_our_fault(
    files: Served[Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 500, with a line in the log."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gizmopy.web.files.os.open", refuse)
    assert (await ask(files))[0] == 500
