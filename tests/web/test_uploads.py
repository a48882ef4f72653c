"""Uploaded files: where their bytes are kept, for how long, and how they are read and saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gizmopy.errors import UsageError
from gizmopy.web import UploadFile
from gizmopy.web.uploads import IN_MEMORY, Spool

CONTENT = bytes(range(256)) * 4096 * 3


@pytest_asyncio.fixture
async def spool() -> AsyncIterator[Spool]:
    """Yield a spool, and end the threads that used it."""
    spool = Spool()
    yield spool
    spool.close_soon()
    await asyncio.get_running_loop().shutdown_default_executor()


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return [each.name for each in folder.iterdir()]


async def _stored(spool: Spool, content: bytes) -> UploadFile:
    start = spool.size
    for at in range(0, len(content), 50_000):
        await spool.write(content[at : at + 50_000])
    return UploadFile.stored(spool, start, len(content), "a", "a/b")


@pytest.mark.parametrize("before", [b"", b"x" * 1000, b"x" * IN_MEMORY * 2])
@pytest.mark.parametrize("size", [0, 1, IN_MEMORY - 1, IN_MEMORY, len(CONTENT)])
async def test_a_file_is_read_as_it_was_written(spool: Spool, before: bytes, size: int) -> None:
    """In memory or on disk, at once, in pieces, and again; also if it is on both."""
    await spool.write(before)
    content = CONTENT[:size]
    file = await _stored(spool, content)
    await spool.write(b"the next file")
    assert file.size == size
    assert await file.read() == content
    assert await file.read() == await file.read(5) == b""
    await file.seek(0)
    assert b"".join([piece async for piece in file]) == content
    await file.seek(size // 2)
    assert await file.read(7) == content[size // 2 :][:7]
    await file.seek(size * 2)
    assert await file.read() == b""


@pytest.mark.parametrize("size", [0, 5, len(CONTENT)])
async def test_a_file_is_saved_whole(spool: Spool, tmp_path: Path, size: int) -> None:
    """Whatever has been read of it. A file that is there is replaced, and nothing else is left."""
    file = await _stored(spool, CONTENT[:size])
    await file.read(3)
    target = tmp_path / ("n" * 250)
    for _ in range(2):
        await file.save(target)
        assert target.read_bytes() == CONTENT[:size]
    await file.save(str(target))
    assert names_in(tmp_path) == [target.name]


async def test_a_file_that_cannot_be_saved_is_an_error(spool: Spool, tmp_path: Path) -> None:
    """Nothing is left of it."""
    file = await _stored(spool, b"x")
    with pytest.raises(FileNotFoundError):
        await file.save(tmp_path / "none" / "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        await file.save(tmp_path / "folder")
    assert names_in(tmp_path) == ["folder"]


async def test_a_save_that_is_cancelled_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    """The thread ends by itself, and removes the part that it wrote."""
    file = await _stored(spool, CONTENT)
    saving = asyncio.create_task(file.save(tmp_path / "x"))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    await asyncio.get_running_loop().shutdown_default_executor()
    assert names_in(tmp_path) in ([], ["x"])


@pytest.mark.parametrize("size", [5, len(CONTENT)])
async def test_a_file_cannot_be_read_after_its_request(
    spool: Spool, tmp_path: Path, size: int
) -> None:
    """The error says what to do."""
    file = await _stored(spool, CONTENT[:size])
    spool.close_soon()
    with pytest.raises(UsageError, match="after the request has ended; save it"):
        await file.read()
    with pytest.raises(UsageError):
        await file.save(tmp_path / "x")
    assert not names_in(tmp_path)


async def test_a_test_can_make_a_file() -> None:
    """Of bytes, without a request."""
    file = UploadFile(b"meow", filename="cat.txt", content_type="text/plain")
    assert (file.filename, file.content_type, file.size) == ("cat.txt", "text/plain", 4)
    assert await file.read(2) + await file.read() == b"meow"
    with pytest.raises(ValueError, match="offset=-1"):
        await file.seek(-1)
    assert repr(file) == "<UploadFile 'cat.txt', 4 bytes>"
