"""Send a file, or the part of it that a client asks for (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import re
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple
from urllib.parse import quote

from aiohttp import ETag, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from gizmopy._aiohttp import BaseFileResponse
from gizmopy.web.problems import Problem

_OCTETS = "application/octet-stream"
_ENCODED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Digits are bounded: int() refuses texts of thousands of them.
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE).fullmatch
_UNQUOTED = re.compile(r"[^ !#-.0-\[\]^-~]")
"""The characters that a quoted file name does not have: not in ASCII, quotes, and slashes."""


class _File(NamedTuple):
    """An open file, and what is known of it."""

    content: BinaryIO
    size: int
    modified: int
    """In seconds, as Last-Modified has it."""
    etag: str
    media_type: str


class FileResponse(BaseFileResponse):
    """Return a file from an endpoint; the kernel sends it, if it can.

    One range of bytes is answered 206, or 416 if the file has none of them; a request for several
    ranges gets the whole file. ETag and Last-Modified are sent, and If-None-Match,
    If-Modified-Since, If-Match, If-Unmodified-Since and If-Range are applied. The file is opened in
    a thread.

    With ``root`` the file is looked for below this folder: a ``path`` that leads out of it, also by
    a symbolic link, is 404. Without it, a ``path`` that comes from a client is the caller's matter.
    With ``filename`` browsers save the file under this name, or only know it with
    ``disposition="inline"``. ``media_type`` is the Content-Type (default: by the file's extension).

    A file that does not exist, a folder and a device are answered 404.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        disposition: Literal["attachment", "inline"] = "attachment",
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path, headers=headers)
        self._file_path = Path(path)
        self._root = root
        if media_type is not None:
            self.headers[hdrs.CONTENT_TYPE] = media_type
        if filename is not None:
            self.headers[hdrs.CONTENT_DISPOSITION] = _disposition(disposition, filename)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head and the file. Raises Problem (404, 412, 416)."""
        if self.prepared:
            return await self.send_head(request)
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, _open, self._file_path, self._root)
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        except OSError as error:
            if error.errno in _ABSENT:
                raise Problem(404, "There is no such file.") from error
            raise
        try:
            return await self._send(request, file)
        finally:
            # Not in a thread: a client that leaves as soon as it has the file would cancel the
            # wait, and its request would count as abandoned (499).
            file.content.close()

    async def _send(self, request: web.BaseRequest, file: _File) -> AbstractStreamWriter | None:
        self.etag = file.etag
        self.last_modified = file.modified
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            if _has_failed(request, file):
                raise Problem(412, "The file has changed.")
            if _is_known(request, file):
                self.set_status(304)
                return await self.send_head(request)
            self.headers[hdrs.ACCEPT_RANGES] = "bytes"
        if hdrs.CONTENT_TYPE not in self.headers:
            self.headers[hdrs.CONTENT_TYPE] = file.media_type
        start, end = 0, file.size
        if (part := _range(request, file)) is not None:
            start, end = part
            self.set_status(206)
            self.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{file.size}"
        self.content_length = end - start
        if start == end or request.method == hdrs.METH_HEAD:
            return await self.send_head(request)
        return await self.send_part(request, file.content, start, end - start)


def _open(path: Path, root: str | os.PathLike[str] | None) -> _File:
    """Open a file in a thread. Raises FileNotFoundError if it is no regular file below ``root``."""
    try:
        if root is not None:
            folder = Path(root).resolve()
            path = (folder / path).resolve()
            if not path.is_relative_to(folder):
                raise FileNotFoundError(errno.ENOENT, "it is outside of the root")
        # Without O_NONBLOCK opening a named pipe waits for its writer, for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (ValueError, RuntimeError) as error:  # a NUL; a loop of links, before Python 3.13
        raise FileNotFoundError(errno.ENOENT, "it is no path of a file") from error
    content = os.fdopen(descriptor, "rb") if _is_regular(descriptor) else None
    if content is None:
        raise FileNotFoundError(errno.ENOENT, "it is no regular file")
    found = os.fstat(content.fileno())
    media_type, coding = mimetypes.guess_type(path.name)  # it reads /etc/mime.types once
    if coding is not None:
        media_type = _ENCODED.get(coding)
    etag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
    return _File(content, found.st_size, int(found.st_mtime), etag, media_type or _OCTETS)


def _is_regular(descriptor: int) -> bool:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return True
    os.close(descriptor)
    return False


def _close_opened(opening: asyncio.Future[_File]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().content.close()


def _disposition(kind: str, filename: str) -> str:
    """Return the header; RFC 6266 has a second form of a name that is not plain ASCII."""
    plain = _UNQUOTED.sub("_", filename)
    if plain == filename:
        return f'{kind}; filename="{plain}"'
    name = "".join("_" if each in "/\\" or each < " " else each for each in filename)
    safe = quote(name, safe="", errors="replace")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{safe}"


def _matches(etag: str, given: tuple[ETag, ...], *, weak: bool) -> bool:
    return any(
        each.value in ("*", etag) and (weak or not each.is_weak or each.value == "*")
        for each in given
    )


def _has_failed(request: web.BaseRequest, file: _File) -> bool:
    """Return whether the client's copy has to be current, and is not."""
    if (given := request.if_match) is not None:
        return not _matches(file.etag, given, weak=False)
    since = request.if_unmodified_since
    return since is not None and file.modified > since.timestamp()


def _is_known(request: web.BaseRequest, file: _File) -> bool:
    """Return whether the client has the current file."""
    if (given := request.if_none_match) is not None:
        return _matches(file.etag, given, weak=True)
    since = request.if_modified_since
    return since is not None and file.modified <= since.timestamp()


def _range(request: web.BaseRequest, file: _File) -> tuple[int, int] | None:
    """Return the start and the end of the part to send; None for the whole file.

    A malformed Range is ignored, as is one of another unit. Raises Problem (416).
    """
    given = request.headers.get(hdrs.RANGE)
    if given is None or request.method != hdrs.METH_GET or not file.size:
        return None
    found = _RANGE(given)
    if found is None or not _is_same(request, file):
        return None
    first, last = found.groups()
    if first:
        start, end = int(first), min(int(last) + 1 if last else file.size, file.size)
        if last and int(last) < int(first):
            return None
    elif last:
        start, end = max(file.size - int(last), 0), file.size
    else:
        return None
    if start >= file.size:
        headers = {"Content-Range": f"bytes */{file.size}"}
        raise Problem(416, f"The file has {file.size} bytes.", headers=headers)
    return start, end


def _is_same(request: web.BaseRequest, file: _File) -> bool:
    """Return whether the client's other parts are of this file: If-Range.

    aiohttp reads a date only, and would send the part of a new file to a client that has the
    beginning of an old one.
    """
    given = request.headers.get(hdrs.IF_RANGE)
    if given is None:
        return True
    if '"' in given:
        return given.strip() == f'"{file.etag}"'
    return request.if_range == datetime.fromtimestamp(file.modified, UTC)
