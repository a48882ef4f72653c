"""Files that a client uploads: small ones in memory, large ones in a temporary file without a name.

All files of a request share one temporary file, so that a thousand small ones take one descriptor.
The file has no name (O_TMPFILE, or it is removed as soon as it is open), so that nothing is left
even if the process is killed. It is closed when the task of the request ends, however it ends.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

from aiohttp import web
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gizmopy.errors import UsageError

IN_MEMORY = 1024 * 1024
"""How many bytes of a request's files are kept in memory."""
_BLOCK = 256 * 1024
"""How many bytes are written to the disk at once: each write is a thread's work."""
_PIECE = 64 * 1024
"""The size of the pieces that the iteration of a file yields."""
_OVER = "the file of a request is read after the request has ended; save it, or read it before"


class UploadFile:
    """A file in a form: ``async def post(self, photo: UploadFile)``.

    It can be read until the request has ended; ``save`` keeps it. Tests may make one of bytes:
    ``UploadFile(b"…", filename="cat.png")``.
    """

    __slots__ = ("_at", "_spool", "_start", "content_type", "filename", "size")

    def __init__(
        self,
        content: bytes = b"",
        filename: str = "",
        content_type: str = "application/octet-stream",
    ) -> None:
        self._hold(Spool(content), 0, len(content), filename, content_type)

    def _hold(
        self, spool: Spool, start: int, size: int, filename: str, content_type: str
    ) -> UploadFile:
        self.filename = filename
        """The name that the client sent; empty if it sent none.

        It may be any text, such as ``../../etc/passwd``. Never make a path of it.
        """
        self.content_type = content_type
        """The Content-Type that the client sent, which nothing has checked."""
        self.size = size
        """The number of bytes."""
        self._spool = spool
        self._start = start
        self._at = 0
        return self

    @classmethod
    def stored(
        cls, spool: Spool, start: int, size: int, filename: str, content_type: str
    ) -> UploadFile:
        """Return the file whose bytes are ``size`` bytes of ``spool``, from ``start`` on."""
        return cls.__new__(cls)._hold(spool, start, size, filename, content_type)

    async def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or all that are left. Empty at the end.

        Raises UsageError if the request has ended.
        """
        left = self.size - self._at
        wanted = left if size < 0 else min(size, left)
        data = await self._spool.read(self._start + self._at, wanted)
        self._at += len(data)
        return data

    async def seek(self, offset: int) -> None:
        """Read from the byte ``offset`` next; 0 is the first one."""
        if offset < 0:
            raise ValueError(f"offset={offset} is negative")
        self._at = min(offset, self.size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes that are left, in pieces of at most 64 KiB."""
        while piece := await self.read(_PIECE):
            yield piece

    async def save(self, path: str | Path) -> None:
        """Write the whole file to ``path``, replacing a file that is there.

        The file appears at once, when all of it is written. Raises OSError if it cannot be
        written, and UsageError if the request has ended.
        """
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        saving = loop.run_in_executor(None, self._copy, Path(path), stop)
        try:
            # A thread cannot be cancelled: it ends by itself, and removes the part that it wrote.
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            stop.set()
            raise

    def _copy(self, path: Path, stop: threading.Event) -> None:
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                for at in range(0, self.size, _BLOCK):
                    if stop.is_set():
                        return
                    size = min(_BLOCK, self.size - at)
                    file.write(self._spool.read_blocking(self._start + at, size))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<UploadFile {self.filename!r}, {self.size} bytes>"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "binary"}


class Spool:
    """The bytes of a request's files: in memory, and on disk once they are many."""

    __slots__ = ("_disk", "_is_closed", "_memory", "_on_disk")

    def __init__(self, content: bytes = b"") -> None:
        self._memory = bytearray(content)
        """The bytes after those that are on disk."""
        self._disk: _TemporaryFile | None = None
        self._on_disk = 0
        self._is_closed = False

    @classmethod
    def of(cls, request: web.Request) -> Spool:
        """Return a spool that is closed when the task of ``request`` ends."""
        spool = cls()
        request.task.add_done_callback(lambda _: spool.close_soon())
        return spool

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._on_disk + len(self._memory)

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises OSError if they cannot be written to disk."""
        self._memory += data
        if len(self._memory) < (_BLOCK if self._on_disk else IN_MEMORY):
            return
        if self._disk is None:
            self._disk = _TemporaryFile()
        block, self._memory = self._memory, bytearray()
        await asyncio.to_thread(self._disk.append, block)
        self._on_disk += len(block)

    async def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on. Raises UsageError if it is closed."""
        if self._disk is not None and size and start < self._on_disk:
            return await asyncio.to_thread(self.read_blocking, start, size)
        return self._from_memory(start, size)

    def read_blocking(self, start: int, size: int) -> bytes:
        """Return the same, for a thread."""
        if self._disk is None or start >= self._on_disk:
            return self._from_memory(start, size)
        on_disk = min(size, self._on_disk - start)
        data = self._disk.read(start, on_disk)
        return data if on_disk == size else data + self._from_memory(self._on_disk, size - on_disk)

    def _from_memory(self, start: int, size: int) -> bytes:
        if self._is_closed:
            raise UsageError(_OVER)
        at = start - self._on_disk
        return bytes(self._memory[at : at + size])

    def close_soon(self) -> None:
        """Release the memory now, and the file in a thread: to free a gigabyte takes a while."""
        self._is_closed = True
        self._memory = bytearray()
        if self._disk is None:
            return
        try:
            _ = asyncio.get_running_loop().run_in_executor(None, self._disk.close)
        except RuntimeError:  # the loop is being closed
            self._disk.close()


class _TemporaryFile:
    """A file for threads. The lock protects the file from being closed while a thread uses it.

    A task that is cancelled leaves its thread running. If the file were closed meanwhile, the
    thread could write to another file, or to a connection, that got the same descriptor.
    """

    __slots__ = ("_file", "_is_closed", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._is_closed = False

    def append(self, data: bytearray) -> None:
        """Write ``data`` at the end; nothing if it is closed, because its reader is gone."""
        with self._lock:
            if self._is_closed:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="gizmopy-")  # noqa: SIM115 - kept open
            self._file.seek(0, 2)
            self._file.write(data)
            self._file.flush()

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on. Raises UsageError if it is closed."""
        with self._lock:
            if self._file is None or self._is_closed:
                raise UsageError(_OVER)
            self._file.seek(start)
            return self._file.read(size)

    def close(self) -> None:
        """Remove the file; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            if self._file is not None:
                self._file.close()
