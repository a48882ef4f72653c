"""Write one line for each request, in batches, at a tenth of the cost of a log record.

The fields of a request go into a buffer. Every 100 ms, or after 128 requests, the buffer is
formatted and written at once, which costs half as much as formatting each line between requests.
The part of a line that does not change between requests is formatted once.

The memory is bounded. A client chooses its path, its user agent and its referer, so each is cut to
1,024 characters before it is buffered, and the cache of converted texts has a limit in bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import Literal, NamedTuple, Protocol

from pydantic_core import PydanticSerializationError, to_json

from gizmopy._aio import Deadline
from gizmopy.observe.log_writer import Writer, open_writer
from gizmopy.observe.logs import Fields, Timestamps
from gizmopy.untrusted.text import MAX_CHARACTERS, cut, escape_json

_FLUSH_SECONDS = 0.1
_FLUSH_LINES = 128
_PART_BYTES = 256 * 1024
_CLOSE_SECONDS = 0.5
_CACHE_BYTES = 512 * 1024
_CACHED_TEXT_BYTES = 2048
"""The limit on a text and its conversion together: a browser's user agent takes 400."""
_ENTRY_BYTES = 100
"""The size of a dictionary's entry, without the two texts."""

logger = logging.getLogger("gizmopy.access")


def _quote(text: str) -> str:
    """Return ``text`` as a JSON string that is safe to show in a terminal."""
    try:
        return escape_json(to_json(text).decode())
    except PydanticSerializationError:  # bytes that are not UTF-8 arrive as lone surrogates
        return _quote(text.encode("utf-8", "backslashreplace").decode())


class _ConversionCache(dict[str, str]):
    """Convert texts with ``convert``, and cache 512 KiB of texts and their conversions.

    Most requests repeat an address and a user agent. A client chooses them, so the limit counts
    bytes: a limit on the number of texts let the memory grow by 133 MiB (issue 11). A long text is
    converted each time.
    """

    def __init__(self, convert: Callable[[str], str]) -> None:
        super().__init__()
        self._convert = convert
        self._bytes = 0

    def __missing__(self, text: str) -> str:
        converted = self._convert(text)
        size = getsizeof(text) + getsizeof(converted) + _ENTRY_BYTES
        if size > _CACHED_TEXT_BYTES:
            return converted
        if self._bytes + size > _CACHE_BYTES:
            # All at once: to find the least recently used text would cost each request more.
            self.clear()
            self._bytes = 0
        self._bytes += size
        self[text] = converted
        return converted


class AccessRecord(NamedTuple):
    """The fields of an access line."""

    time: float
    fixed: str
    """The part from ``AccessLog.fixed_part``."""
    request_id: str
    path: str
    """The path as the client sent it, without its query."""
    seconds: float
    size: int
    """The bytes of the response's body."""
    remote: str
    user_agent: str
    trace_id: str
    protocol: str
    referer: str


_new_record = tuple.__new__
"""Makes an AccessRecord from a tuple, in half the time of calling the class."""


class AccessLog:
    """Write access lines to ``destination``.

    ``destination`` is ``stderr``, ``stdout``, the path of a file (opened again after it was moved),
    or ``off``. ``format`` is ``own``, or Apache's ``combined``. Neither shows the query of a URL,
    which may contain a token. Own lines are JSON, except on a terminal; ``log_json`` overrides
    that. ``fields`` chooses the names in JSON: ``plain``, or those that Google Cloud reads.

    Use it as an async context manager. Entering it opens the file and raises OSError if it cannot;
    leaving it writes the buffer, for half a second at most.

    A line that cannot be written (a full disk, a closed pipe, a reader that stalls) is dropped and
    counted in ``dropped``; the first loss is logged. Nothing here waits for a reader.
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
        """Whether lines show the protocol and the referer."""
        self._destination = destination
        self._log_json = log_json
        self._format = format
        self._fields = fields
        self._writer: Writer | None = None
        self._buffer: list[AccessRecord] = []
        self._flush_handle: asyncio.TimerHandle | None = None
        self._is_loss_logged = False
        self._style: _Style = _JSONStyle()

    @property
    def dropped(self) -> int:
        """The number of lines lost so far."""
        return 0 if self._writer is None else self._writer.dropped

    async def __aenter__(self) -> AccessLog:
        if self.enabled:
            self._writer = open_writer(self._destination, self._log_loss)
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
        # Closing rarely takes any time. If a reader stalls, close() blocks: in short steps, so that
        # the event loop runs in between.
        deadline = Deadline(_CLOSE_SECONDS)
        while not self._writer.close(timeout=0.01) and deadline.remaining():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        """Return the part of a line that all requests with these three values share."""
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
        """Add the line of a request; see :class:`AccessRecord` for the fields.

        ``request_id`` and ``trace_id`` must be short and safe in JSON. ``protocol`` and ``referer``
        are needed only if ``detailed``. Of ``path``, ``user_agent`` and ``referer`` the first 1,024
        characters are written, followed by the length.
        """
        # Cut here, not when the line is written: otherwise the buffer may hold 128 times 64 KiB.
        if len(path) > MAX_CHARACTERS:
            path = cut(path)
        if len(user_agent) > MAX_CHARACTERS:
            user_agent = cut(user_agent)
        if len(referer) > MAX_CHARACTERS:
            referer = cut(referer)
        fields = (
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
        self._buffer.append(_new_record(AccessRecord, fields))
        if len(self._buffer) >= _FLUSH_LINES:
            self.flush()
        elif self._flush_handle is None:
            loop = asyncio.get_running_loop()
            self._flush_handle = loop.call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Format the buffered requests and pass the lines to the writer."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if not self._buffer or self._writer is None:
            return
        lines = self._style.lines(self._buffer).encode("utf-8", "backslashreplace")
        self._buffer.clear()
        # The writer drops a text that is larger than the room in its queue as a whole.
        parts = [lines] if len(lines) <= _PART_BYTES else lines.splitlines(keepends=True)
        accepted = [self._writer.write(part) for part in parts]
        if not all(accepted):
            self._log_loss("the reader of the log is too slow")

    def _log_loss(self, reason: object) -> None:
        if not self._is_loss_logged:
            self._is_loss_logged = True
            logger.error("access lines are being lost: %s", reason)


class _Style(Protocol):
    """The format of lines."""

    def fixed_part(self, method: str, route: str, status: int) -> str:
        """Return the part of a line that all requests with these three values share."""

    def lines(self, records: Sequence[AccessRecord]) -> str:
        """Return the lines of ``records``."""


class _JSONStyle:
    """JSON with our own field names."""

    def __init__(self) -> None:
        self._timestamp = Timestamps()
        self._quoted = _ConversionCache(_quote)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return (
            '"level":"INFO","logger":"gizmopy.access","message":"request",'
            f'"method":{_quote(method)},"route":{_quote(route)},"status":{status}'
        )

    def lines(self, records: Sequence[AccessRecord]) -> str:
        quoted, timestamp = self._quoted, self._timestamp
        return "".join(
            [
                f'{{"time":"{timestamp(each.time)}",{each.fixed},"path":{_quote(each.path)},'
                f'"request_id":"{each.request_id}",{_trace(each.trace_id) if each.trace_id else ""}'
                f'"duration_ms":{each.seconds * 1000:.3f},"bytes":{each.size},'
                f'"remote":{quoted[each.remote]},"user_agent":{quoted[each.user_agent]}}}\n'
                for each in records
            ]
        )


def _trace(trace_id: str) -> str:
    return f'"trace_id":"{trace_id}",'


class _LineByLine:
    """A format whose lines are made one by one; only JSON is worth more speed."""

    def line(self, record: AccessRecord) -> str:
        """Return the line of one request."""
        raise NotImplementedError

    def lines(self, records: Sequence[AccessRecord]) -> str:
        return "".join(map(self.line, records))


class _ConsoleStyle(_LineByLine):
    """Short lines for a person, with the local time of day."""

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return f"{method:<6} {status}"

    def line(self, record: AccessRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.time))
        return (
            f"{clock} {record.fixed} {_escape(record.path)} {record.seconds * 1000:.1f}ms "
            f"{record.size}B request_id={record.request_id}\n"
        )


class _GoogleStyle(_LineByLine):
    """JSON with the field names that Google Cloud's agents read; numbers of 64 bits are text."""

    def __init__(self) -> None:
        self._timestamp = Timestamps()
        self._quoted = _ConversionCache(_quote)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return (
            '"severity":"INFO","logger":"gizmopy.access","message":"request",'
            f'"route":{_quote(route)},'
            f'"httpRequest":{{"requestMethod":{_quote(method)},"status":{status}'
        )

    def line(self, record: AccessRecord) -> str:
        quoted = self._quoted
        referer = f',"referer":{_quote(record.referer)}' if record.referer else ""
        trace = f',"logging.googleapis.com/trace":"{record.trace_id}"' if record.trace_id else ""
        return (
            f'{{"time":"{self._timestamp(record.time)}",{record.fixed}'
            f',"requestUrl":{_quote(record.path)},"protocol":{quoted[record.protocol]}'
            f',"responseSize":"{record.size}","latency":"{record.seconds:.6f}s"'
            f',"remoteIp":{quoted[record.remote]},"userAgent":{quoted[record.user_agent]}'
            f'{referer}}},"request_id":"{record.request_id}"{trace}}}\n'
        )


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""Apache writes English names in every locale; strftime does not."""


class _CombinedStyle(_LineByLine):
    """Apache's combined log format, its times in UTC."""

    def __init__(self) -> None:
        self._escaped = _ConversionCache(_escape)

    def fixed_part(self, method: str, route: str, status: int) -> str:
        return f"{_escape(method)} {status}"

    def line(self, record: AccessRecord) -> str:
        escaped = self._escaped
        method, _, status = record.fixed.partition(" ")
        utc = time.gmtime(record.time)
        month = _MONTHS[utc.tm_mon - 1]
        return (
            f"{escaped[record.remote] or '-'} - - "
            f"[{time.strftime(f'%d/{month}/%Y:%H:%M:%S +0000', utc)}] "
            f'"{method} {_escape(record.path)} {escaped[record.protocol]}" '
            f"{status} {record.size or '-'} "
            f'"{escaped[record.referer] or "-"}" "{escaped[record.user_agent] or "-"}"\n'
        )


_SPECIAL = {8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 13: r"\r", 34: r"\"", 92: r"\\"}
_ESCAPES = [
    _SPECIAL.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}")
    for byte in range(256)
]


def _escape(text: str) -> str:
    """Return text as Apache logs it, so that no text of a client ends a field or a line.

    Quotes, backslashes and control characters are escaped as in C; each byte beyond ASCII becomes
    ``\\xhh``.
    """
    return "".join(map(_ESCAPES.__getitem__, text.encode("utf-8", "surrogateescape")))
