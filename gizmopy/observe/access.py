"""Write one line for each request, in batches: a tenth of what a log record costs.

What a line is made of gathers in a list, which is formatted and goes to the writer every 100 ms or
128 lines, whichever comes first: many lines in one go cost half of as many one by one, between
requests. The part of a line that does not change between requests is made once.

The memory is bounded: a client chooses its path, its user agent and its referer, so each is cut to
1,024 characters before it waits, and the texts that are remembered have a limit in bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import Literal, NamedTuple, Protocol

from pydantic_core import PydanticSerializationError, to_json

from gizmopy.observe.log_writer import Writer, open_writer
from gizmopy.observe.logs import Fields, Timestamps
from gizmopy.untrusted.text import MAX_CHARACTERS, cut, escape_json

_FLUSH_SECONDS = 0.1
_FLUSH_LINES = 128
_PART_BYTES = 256 * 1024
_CLOSE_SECONDS = 0.5
_REMEMBERED_BYTES = 512 * 1024
_LONGEST_REMEMBERED = 2048
"""The most bytes of a text and its conversion together: a browser's user agent takes 400."""
_ENTRY_BYTES = 100
"""The bytes of a dictionary's entry, besides the two texts."""

logger = logging.getLogger("gizmopy.access")


def _quote(text: str) -> str:
    """Return text as JSON that a terminal can show."""
    try:
        return escape_json(to_json(text).decode())
    except PydanticSerializationError:  # bytes that are not UTF-8 arrive as lone surrogates
        return _quote(text.encode("utf-8", "backslashreplace").decode())


class _Remembered(dict[str, str]):
    """Map a text to its conversion by ``convert``, and remember 512 KiB of both.

    Addresses and user agents come back. A client chooses them, so the memory is counted in bytes
    (issue 11: counted in texts it grew by 133 MiB), and a long text is converted each time.
    """

    def __init__(self, convert: Callable[[str], str]) -> None:
        super().__init__()
        self._convert = convert
        self._bytes = 0

    def __missing__(self, text: str) -> str:
        converted = self._convert(text)
        size = getsizeof(text) + getsizeof(converted) + _ENTRY_BYTES
        if size > _LONGEST_REMEMBERED:
            return converted
        if self._bytes + size > _REMEMBERED_BYTES:
            self.clear()
            self._bytes = 0
        self._bytes += size
        self[text] = converted
        return converted


class AccessLog:
    """Write access lines to ``destination``, or nowhere.

    ``destination`` is ``stderr``, ``stdout``, a file's path (opened again when it was moved away),
    or ``off``. ``format`` is our own or Apache's ``combined``, in both the path without its query,
    since tokens travel there. Our own lines are JSON unless a terminal shows them, or as
    ``log_json`` says, and their names are ``fields``: plain, or what Google Cloud reads. Use it as
    an async context manager: entering it opens the file (raising OSError where it cannot), leaving
    it writes what is buffered, for half a second at most.

    A line that cannot be written (a full disk, a closed pipe, a reader that stalls) is dropped and
    counted in ``dropped``; the trouble is logged once. Nothing here waits for a reader.
    """

    def __init__(
        self,
        destination: str,
        *,
        log_json: bool | None = None,
        format: Literal["own", "combined"] = "own",
        fields: Fields = "plain",
    ) -> None:
        self.enabled = destination != "off"
        self.detailed = False
        """Whether a line shows the protocol and the referer."""
        self._destination = destination
        self._log_json = log_json
        self._format = format
        self._fields = fields
        self._writer: Writer | None = None
        self._waiting: list[_Fields] = []
        self._flush_handle: asyncio.TimerHandle | None = None
        self._troubled = False
        self._style: _Style = _JSONStyle()

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return 0 if self._writer is None else self._writer.dropped

    async def __aenter__(self) -> AccessLog:
        self._loop = asyncio.get_running_loop()
        if self.enabled:
            self._writer = open_writer(self._destination, self._tell)
            self._style = self._choose_style(is_terminal=self._writer.is_terminal)
            self.detailed = not isinstance(self._style, (_JSONStyle, _ConsoleStyle))
        return self

    def _choose_style(self, *, is_terminal: bool) -> _Style:
        if self._format == "combined":
            return _CombinedStyle()
        if is_terminal if self._log_json is None else not self._log_json:
            return _ConsoleStyle()
        return _GoogleStyle() if self._fields == "gcp" else _JSONStyle()

    async def __aexit__(self, *exc_info: object) -> None:
        self.flush()
        self.enabled = False
        if self._writer is None:
            return
        last = self._loop.time() + _CLOSE_SECONDS
        # Mostly done at once; a stalled reader must not hold the event loop here either.
        while not self._writer.close(timeout=0.01) and self._loop.time() < last:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        """Return the part of a line that every request of this kind shares."""
        return self._style.fixed_part(method, route, status)

    def write(
        self,
        fixed: str,
        request_id: str,
        path: str,
        seconds: float,
        size: int,
        remote: str,
        user_agent: str,
        trace_id: str = "",
        protocol: str = "HTTP/1.1",
        referer: str = "",
    ) -> None:
        """Add a line: ``fixed`` from ``fixed_part``, the path as sent, without its query.

        ``request_id`` and ``trace_id`` must be safe within JSON and short, ``size`` is the body's
        bytes. ``protocol`` and ``referer`` are shown where ``detailed``. Of ``path``,
        ``user_agent`` and ``referer`` the first 1,024 characters are written, with a note of the
        length.
        """
        # Cut here, not when the line is written: 128 lines of 64 KiB each may wait otherwise.
        if len(path) > MAX_CHARACTERS:
            path = cut(path)
        if len(user_agent) > MAX_CHARACTERS:
            user_agent = cut(user_agent)
        if len(referer) > MAX_CHARACTERS:
            referer = cut(referer)
        self._waiting.append(
            (
                time.time(),
                fixed,
                request_id,
                path,
                seconds,
                size,
                remote,
                user_agent,
                trace_id,
                protocol,
                referer,
            )
        )
        if len(self._waiting) >= _FLUSH_LINES:
            self.flush()
        elif self._flush_handle is None:
            self._flush_handle = self._loop.call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the lines that wait, and hand them to the writer."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if not self._waiting or self._writer is None:
            return
        lines = self._style.lines(self._waiting).encode("utf-8", "backslashreplace")
        self._waiting.clear()
        # More than the writer's queue holds would be dropped as a whole.
        parts = [lines] if len(lines) <= _PART_BYTES else lines.splitlines(keepends=True)
        taken = [self._writer.write(part) for part in parts]
        if not all(taken):
            self._tell("nobody reads them in time")

    def _tell(self, trouble: object) -> None:
        if not self._troubled:
            self._troubled = True
            logger.error("access lines are being lost: %s", trouble)


class _Request(NamedTuple):
    """What a line is made of."""

    time: float
    fixed: str
    request_id: str
    path: str
    seconds: float
    size: int
    remote: str
    user_agent: str
    trace_id: str
    protocol: str
    referer: str


_Fields = tuple[float, str, str, str, float, int, str, str, str, str, str]
"""The same, as it waits: a plain tuple is made in a third of the time."""


class _Style(Protocol):
    """How a line is written."""

    def fixed_part(self, method: str, route: str, status: int) -> str:
        """Return the part of a line that every request of this kind shares."""

    def lines(self, requests: Sequence[_Fields]) -> str:
        """Return the lines of ``requests``."""


class _JSONStyle:
    """JSON with our own field names."""

    def __init__(self) -> None:
        self._timestamp = Timestamps()
        self._quoted = _Remembered(_quote)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return (
            '"level":"INFO","logger":"gizmopy.access","message":"request",'
            f'"method":{_quote(method)},"route":{_quote(route)},"status":{status}'
        )

    def lines(self, requests: Sequence[_Fields]) -> str:
        quoted, timestamp = self._quoted, self._timestamp
        return "".join(
            [
                f'{{"time":"{timestamp(now)}",{fixed},"path":{_quote(path)},'
                f'"request_id":"{identity}",{_trace(trace_id) if trace_id else ""}'
                f'"duration_ms":{seconds * 1000:.3f},"bytes":{size},'
                f'"remote":{quoted[remote]},"user_agent":{quoted[user_agent]}}}\n'
                for (
                    now,
                    fixed,
                    identity,
                    path,
                    seconds,
                    size,
                    remote,
                    user_agent,
                    trace_id,
                    *_,
                ) in requests
            ]
        )


def _trace(trace_id: str) -> str:
    return f'"trace_id":"{trace_id}",'


class _LineByLine:
    """A style whose lines are not worth the haste."""

    def line(self, request: _Request) -> str:
        """Return the line of one request."""
        raise NotImplementedError

    def lines(self, requests: Sequence[_Fields]) -> str:
        return "".join([self.line(_Request._make(request)) for request in requests])


class _ConsoleStyle(_LineByLine):
    """For a person: the time of day, and no more than fits."""

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return f"{method:<6} {status}"

    def line(self, request: _Request) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(request.time))
        return (
            f"{clock} {request.fixed} {_escape(request.path)} {request.seconds * 1000:.1f}ms "
            f"{request.size}B request_id={request.request_id}\n"
        )


class _GoogleStyle(_LineByLine):
    """JSON with the field names that Google Cloud's agents read; numbers of 64 bits are text."""

    def __init__(self) -> None:
        self._timestamp = Timestamps()
        self._quoted = _Remembered(_quote)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return (
            '"severity":"INFO","logger":"gizmopy.access","message":"request",'
            f'"route":{_quote(route)},'
            f'"httpRequest":{{"requestMethod":{_quote(method)},"status":{status}'
        )

    def line(self, request: _Request) -> str:
        quoted = self._quoted
        referer = f',"referer":{_quote(request.referer)}' if request.referer else ""
        trace = f',"logging.googleapis.com/trace":"{request.trace_id}"' if request.trace_id else ""
        return (
            f'{{"time":"{self._timestamp(request.time)}",{request.fixed}'
            f',"requestUrl":{_quote(request.path)},"protocol":{quoted[request.protocol]}'
            f',"responseSize":"{request.size}","latency":"{request.seconds:.6f}s"'
            f',"remoteIp":{quoted[request.remote]},"userAgent":{quoted[request.user_agent]}'
            f'{referer}}},"request_id":"{request.request_id}"{trace}}}\n'
        )


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""As Apache writes them, in any locale."""


class _CombinedStyle(_LineByLine):
    """Apache's combined log format, its times in UTC."""

    def __init__(self) -> None:
        self._escaped = _Remembered(_escape)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return f"{_escape(method)} {status}"

    def line(self, request: _Request) -> str:
        escaped = self._escaped
        method, _, status = request.fixed.partition(" ")
        utc = time.gmtime(request.time)
        month = _MONTHS[utc.tm_mon - 1]
        return (
            f"{escaped[request.remote] or '-'} - - "
            f"[{time.strftime(f'%d/{month}/%Y:%H:%M:%S +0000', utc)}] "
            f'"{method} {_escape(request.path)} {escaped[request.protocol]}" '
            f"{status} {request.size or '-'} "
            f'"{escaped[request.referer] or "-"}" "{escaped[request.user_agent] or "-"}"\n'
        )


_SPECIAL = {8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 13: r"\r", 34: r"\"", 92: r"\\"}
_ESCAPES = [
    _SPECIAL.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}")
    for byte in range(256)
]


def _escape(text: str) -> str:
    """Return text as Apache logs it, so that nothing a client sends ends a field or a line.

    Quotes, backslashes and control characters are escaped as in C, and what is not ASCII byte by
    byte, as ``\\xhh``.
    """
    return "".join(map(_ESCAPES.__getitem__, text.encode("utf-8", "surrogateescape")))
