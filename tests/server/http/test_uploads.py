"""Uploads to a server: limits, slow and lost clients, and the temporary file."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pytest
import pytest_asyncio
from aiohttp import FormData, web

import pubsubtest
from gizmopy import Form, Service, Settings, UploadFile, get, post
from gizmopy.errors import UsageError
from gizmopy.web.uploads import IN_MEMORY
from tests.server.support import Talk, request, talk, until

LIMIT = 3 * IN_MEMORY
CONTENT = b"x" * (2 * IN_MEMORY)
FORM = "Content-Type: multipart/form-data; boundary=x"
HEAD = b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"
END = b"\r\n--x--\r\n"


Serving = pubsubtest.Served["Uploads"]


class Uploads(Service):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.others: set[str] = set()
        self.files: list[UploadFile] = []
        self.waits = asyncio.Event()

    @post("/size", max_body=LIMIT)
    async def size(self, file: UploadFile) -> int:
        return file.size

    @post("/small")
    async def small(self, file: UploadFile) -> int:
        return file.size

    @post("/keep", max_body=LIMIT)
    async def keep(self, file: UploadFile) -> None:
        self.files.append(file)
        await self.waits.wait()

    @post("/fail", max_body=LIMIT)
    async def fail(self, file: UploadFile) -> None:
        raise ValueError("broken")

    @post("/stream", max_body=LIMIT)
    async def stream(self, file: UploadFile, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in file:
            await response.write(piece)
        return response

    @post("/text")
    async def text(self, name: Annotated[str, Form()]) -> str:
        return name

    @get("/hello")
    async def hello(self) -> str:
        return "hello"


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return [each.name for each in folder.iterdir()]


def temporary_files() -> set[str]:
    """Return the files without a name that this process has open: of uploads, and of pytest."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:  # the descriptor that lists the folder
            continue
        if target.endswith("(deleted)"):
            found.add(target)
    return found


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Serving]:
    """Serve uploads; afterwards no temporary file is left."""
    others = temporary_files()
    async with pubsubtest.serve(Uploads, settings=Settings()) as served:
        served.service.others = others
        yield served
        await until(lambda: temporary_files() == served.service.others)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_large_file_is_received(served: Serving) -> None:
    """It is on disk, and aiohttp's form is what a test sends."""
    form = FormData()
    form.add_field("file", io.BytesIO(CONTENT), filename="naïve.bin", content_type="a/b")
    async with served.http.post("/size", data=form) as response:
        assert await response.json() == len(CONTENT)


async def test_a_file_can_be_streamed_back(served: Serving) -> None:
    """It is readable until the response has been sent."""
    form = FormData()
    form.add_field("file", io.BytesIO(CONTENT), filename="a")
    async with served.http.post("/stream", data=form) as response:
        assert await response.read() == CONTENT


def announced(size: int) -> bytes:
    """Return the head of an upload with this Content-Length."""
    lines = f"POST /small HTTP/1.1\r\nHost: x\r\n{FORM}\r\nContent-Length: {size}\r\n\r\n"
    return lines.encode()


async def test_a_content_length_over_the_limit_is_413_at_once(served: Serving) -> None:
    """No byte of the body is awaited, and the connection ends."""
    async with talk(served.url) as client:
        client.send(announced(2**40))
        answer = await client.answer()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")


@pytest.mark.parametrize("path", ["/size", "/text", "/fail", "/stream"])
@pytest.mark.parametrize("is_gzip", [False, True])
async def test_a_stream_over_the_limit_is_413(served: Serving, path: str, is_gzip: bool) -> None:
    """As soon as it is known, after decompression; then a new connection is served."""
    data = HEAD + b"x" * (LIMIT + 1)
    data = gzip.compress(data) if is_gzip else data
    async with talk(served.url) as client:
        coding = "Content-Encoding: gzip\r\n" if is_gzip else ""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{FORM}\r\n{coding}Transfer-Encoding: chunked"
        client.send(head.encode() + b"\r\n\r\n%x\r\n%b\r\n" % (len(data), data))
        answer = await client.answer()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
    async with served.http.get("/hello") as response:
        assert response.status == 200


async def test_a_malformed_form_does_not_end_the_connection(served: Serving) -> None:
    """Its end is known, so that the next request is served."""
    async with talk(served.url) as client:
        client.send(request("POST", "/size", HEAD + b"x", FORM) + request("GET", "/hello"))
        assert (await client.answer()).status == 400
        assert (await client.answer()).status == 200


async def test_a_malformed_chunk_is_400(served: Serving) -> None:
    """At once, also in the middle of a file."""
    async with talk(served.url) as client:
        head = f"POST /size HTTP/1.1\r\nHost: x\r\n{FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head.encode() + b"%x\r\n%b\r\n" % (len(HEAD), HEAD) + b"zz\r\n")
        assert (await client.answer()).status == 400


@pytest.mark.parametrize("path", ["/size", "/text"])
async def test_a_form_that_is_no_gzip_is_400(served: Serving, path: str) -> None:
    """The connection ends, and a new one is served at once."""
    async with talk(served.url) as client:
        client.send(request("POST", path, b"garbage", FORM, "Content-Encoding: gzip"))
        answer = await client.answer()
        assert (answer.status, answer.headers["Connection"]) == (400, "close")
    async with served.http.get("/hello") as response:
        assert response.status == 200


async def begin_upload(client: Talk, served: Serving) -> None:
    """Send the first part of a large file, and wait until it is on disk."""
    size = len(HEAD) + len(CONTENT) + len(END)
    head = f"POST /keep HTTP/1.1\r\nHost: x\r\n{FORM}\r\nContent-Length: {size}\r\n\r\n"
    client.send(head.encode() + HEAD + CONTENT[:-10])
    await until(lambda: temporary_files() != served.service.others)


async def test_the_file_of_a_client_that_leaves_is_removed(served: Serving) -> None:
    """In the middle of its upload. The fixture waits until no file is left."""
    async with talk(served.url) as client:
        await begin_upload(client, served)
    assert not served.service.files


async def test_an_upload_that_stops_is_408() -> None:
    """Its client has the time of every body, and its file is removed."""
    settings = Settings(read_timeout=timedelta(milliseconds=100))
    others = temporary_files()
    async with pubsubtest.serve(Uploads, settings=settings) as served, talk(served.url) as client:
        size = len(HEAD) + 100
        head = f"POST /size HTTP/1.1\r\nHost: x\r\n{FORM}\r\nContent-Length: {size}\r\n\r\n"
        client.send(head.encode() + HEAD)
        assert (await client.answer()).status == 408
    assert temporary_files() == others


async def test_the_file_of_an_endpoint_that_fails_is_removed(served: Serving) -> None:
    """Its error is logged and answered as any other."""
    async with talk(served.url) as client:
        client.send(request("POST", "/fail", HEAD + CONTENT + END, FORM))
        assert (await client.answer()).status == 500


async def test_the_file_is_closed_after_the_response(served: Serving) -> None:
    """Work that goes on after the request finds an error that says so."""
    async with talk(served.url) as client:
        client.send(request("POST", "/keep", HEAD + CONTENT + END, FORM))
        await until(lambda: served.service.files)
        assert await served.service.files[0].read(3) == b"xxx"
        served.service.waits.set()
        assert (await client.answer()).status == 204
    await until(lambda: temporary_files() == served.service.others)
    with pytest.raises(UsageError, match="after the request has ended"):
        await served.service.files[0].read()


async def test_the_file_is_removed_at_the_end_of_the_drain() -> None:
    """Its request is cancelled when the time of the drain is over."""
    before = temporary_files()
    async with AsyncExitStack() as stack:
        async with pubsubtest.serve(Uploads, settings=Settings()) as served:
            client = await stack.enter_async_context(talk(served.url))
            client.send(request("POST", "/keep", HEAD + CONTENT + END, FORM))
            await until(lambda: served.service.files)
        assert (await client.answer()).status == 503
    await asyncio.get_running_loop().shutdown_default_executor()
    assert temporary_files() == before


async def test_a_middleware_may_read_the_body_first() -> None:
    """A signature covers the bytes; the form is read from them."""

    class Signed(Service):
        async def check(self, request: web.Request) -> bytes:
            return await request.read()

        @property
        def middleware(self):  # type: ignore[no-untyped-def, override]  # one middleware
            def read_first(handler):  # type: ignore[no-untyped-def]
                async def handle(request: web.Request) -> web.StreamResponse:
                    await request.read()
                    return await handler(request)  # type: ignore[no-any-return]

                return handle

            return (read_first,)

        @post("/size")
        async def size(self, file: UploadFile, name: Annotated[str, Form()] = "") -> int:
            return file.size

        @post("/text")
        async def text(self, name: Annotated[str, Form()]) -> str:
            return name

    async with pubsubtest.serve(Signed, settings=Settings()) as served:
        form = FormData()
        form.add_field("file", io.BytesIO(b"x" * 200_000), filename="a")
        async with served.http.post("/size", data=form) as response:
            assert await response.json() == 200_000
        async with served.http.post("/text", data={"name": "Tom"}) as response:
            assert await response.json() == "Tom"


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="the file system has no O_TMPFILE")
async def test_the_temporary_file_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Serving
) -> None:
    """Nothing is left even if the process is killed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with talk(served.url) as client:
        await begin_upload(client, served)
        assert not names_in(tmp_path)
