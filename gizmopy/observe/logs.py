"""Set up the log of the process: JSON lines for machines, colours for people.

It is the root logger of the standard library, so it gets the records of every library too. Each
record has the ids of the request and the message that it belongs to, or the name of the job.

A record may quote text of a client. Its message, its extras and its traceback are escaped, so that
they cannot control a terminal or forge a line, and cut, so that a line cannot have 17 MB (issue
11).
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pydantic_core import PydanticSerializationError, to_json

from gizmopy.observe.context import job_name, message_id, propagated_attributes, request_id
from gizmopy.observe.kept_set_up import kept_set_up
from gizmopy.observe.log_masking import MaskingFormatter
from gizmopy.observe.log_writer import open_writer
from gizmopy.observe.rate_limit import RateLimitFilter
from gizmopy.untrusted.text import as_lines, cut, escape, escape_json

Fields = Literal["plain", "gcp"]
"""The names of the fields in JSON: plain, or those that the agents of Google Cloud read."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_IDS = ("request_id", "message_id", "trace_id", "job")
_CRITICAL_SECONDS = 0.1
MAX_TEXT = 16 * 1024
"""The limit in characters on a message, on each extra, and on each part of a traceback: a frame, or
the text of an error."""
MAX_EXTRAS = 32 * 1024
"""The limit in characters on all extras of a record together."""
MAX_STACK = 64 * 1024
"""The limit in characters on a traceback. A record at all of these limits fits in the queue of the
writer, also after escaping, which makes it six times as long."""
_LEFT_OUT = "extras_left_out"
"""The field with the number of extras that exceeded the limit."""


class Timestamps:
    """Format times as RFC 3339 in UTC with milliseconds; each second is formatted only once."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""
        self._millisecond = -1
        self._text = ""

    def __call__(self, seconds: float) -> str:
        """Return ``seconds`` since 1970 as text."""
        millisecond = int(seconds * 1000)
        if millisecond != self._millisecond:
            second = millisecond // 1000
            if second != self._second:
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second
            self._text = f"{self._prefix}.{millisecond % 1000:03d}Z"
            self._millisecond = millisecond
        return self._text


class ContextFilter(logging.Filter):
    """Add the ids of the current request, message and trace, and the job, to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set ``request_id``, ``message_id``, ``trace_id`` and ``job`` unless set; return true."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        if not hasattr(record, "message_id"):
            record.message_id = message_id.get()
        if not hasattr(record, "trace_id"):
            record.trace_id = trace_id(propagated_attributes.get())
        if not hasattr(record, "job"):
            record.job = job_name.get()
        return True


def trace_id(attributes: Mapping[str, str]) -> str:
    """Return the trace id in the ``traceparent`` among ``attributes``, or an empty string."""
    parts = attributes.get("traceparent", "").split("-", 2)
    return parts[1] if len(parts) == 3 else ""


def _message(record: logging.LogRecord) -> str:
    try:
        return cut(record.getMessage(), MAX_TEXT)
    except Exception as error:  # noqa: BLE001 -- a faulty call to a logger must not lose the record
        return cut(_unformatted(record, error), MAX_TEXT)


def _unformatted(record: logging.LogRecord, error: Exception) -> str:
    """Return the message of a record whose arguments do not fit it, with both and the place."""
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    shown = ", ".join(cut(_as_text(each), MAX_TEXT // 4) for each in args)
    place, kind = f"{record.pathname}:{record.lineno}", type(error).__name__
    return f"{_as_text(record.msg)} [not formatted: {kind} at {place}; arguments: {shown}]"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return the caller's ``extra=``, and the ids that are set."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not (name in _IDS and not value)
    }


def _bounded(extras: Mapping[str, Any], as_text: Callable[[Any], str]) -> dict[str, Any]:
    """Return ``extras`` within the limits: long ones are cut, and the last ones left out."""
    bounded: dict[str, Any] = {}
    room = MAX_EXTRAS
    for name, value in extras.items():
        text = value if isinstance(value, str) else as_text(value)
        if len(text) > MAX_TEXT:
            text = value = cut(text, MAX_TEXT)
        room -= len(name) + len(text)
        if room < 0:
            return bounded | {_LEFT_OUT: len(extras) - len(bounded)}
        bounded[name] = value
    return bounded


def _stack(record: logging.LogRecord) -> str:
    """Return the traceback and the stack of a record, or an empty string."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        frames = traceback.format_exception(*record.exc_info)
        parts.append("".join([_cut_frame(frame) for frame in frames]).rstrip())
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return cut("\n".join(parts), MAX_STACK)


def _cut_frame(frame: str) -> str:
    return frame if len(frame) <= MAX_TEXT else f"{cut(frame, MAX_TEXT)}\n"


def _to_json(value: Any) -> str:
    """Return ``value`` as JSON; a part that JSON cannot represent is written as its repr."""
    try:
        return to_json(value, fallback=repr, inf_nan_mode="strings").decode()
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        # A lone surrogate, a key that is not a str, or a cycle must not lose the record.
        if isinstance(value, dict):
            return json.dumps({_as_text(name): _as_text(each) for name, each in value.items()})
        return json.dumps(_as_text(value))


def _as_text(value: Any) -> str:
    """Return ``str(value)``, or the name of its type if that raises: an int of 5,000 digits."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 -- a user's faulty __str__ must not lose the record
        return f"<{type(value).__qualname__} that cannot be shown>"


class JSONFormatter(logging.Formatter):
    """Format a record as one line of JSON, with the names of ``fields``."""

    def __init__(self, fields: Fields = "plain") -> None:
        super().__init__()
        self._timestamp = Timestamps()
        self._named = self._for_google if fields == "gcp" else self._plain

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object."""
        extras = _extras(record)
        line = _to_json(self._named(record, extras))
        if len(line) > MAX_TEXT:  # a shorter line has nothing to cut
            line = _to_json(self._named(record, _bounded(extras, _to_json)))
        return escape_json(line)

    def _plain(self, record: logging.LogRecord, extras: Mapping[str, Any]) -> dict[str, Any]:
        fields = {
            "time": self._timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        _add(extras, fields, reserved="stack")
        if stack := _stack(record):
            fields["stack"] = stack
        return fields

    def _for_google(self, record: logging.LogRecord, extras: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that Cloud Logging reads; Error Reporting reads ``stack_trace``."""
        source = {"file": record.pathname, "line": str(record.lineno), "function": record.funcName}
        fields = {
            "time": self._timestamp(record.created),
            "severity": _severity(record.levelno),
            "logger": record.name,
            "message": _message(record),
            "logging.googleapis.com/sourceLocation": source,
        }
        _add(extras, fields, reserved="stack_trace")
        if trace := fields.pop("trace_id", ""):
            fields["logging.googleapis.com/trace"] = trace
        if stack := _stack(record):
            fields["stack_trace"] = stack
        return fields


def _add(extras: Mapping[str, Any], fields: dict[str, Any], *, reserved: str) -> None:
    """Add ``extras`` to ``fields``; one with the name of another field gets an underscore."""
    for name, value in extras.items():
        free = name
        while free in fields or free == reserved:
            free = f"{free}_"
        fields[free] = value


def _severity(level: int) -> str:
    """Return the severity of Google Cloud for a level; a custom level is rounded down."""
    severities = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    return severities[min(max(level // 10, 1), 5) - 1]


_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class ConsoleFormatter(logging.Formatter):
    """Format a record for a person: time, level, logger, message, then extras as name=value."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, followed by its traceback if it has one.

        Each further line of a message or a traceback begins with two spaces. So a line without them
        is the first of a record, and a message cannot forge one.
        """
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self._paint(f"{record.levelname:<8}", _COLOURS.get(record.levelname, "0"))
        logger = self._paint(escape(record.name), "2")
        extras = {name: _as_text(value) for name, value in _extras(record).items()}
        shown = _bounded(extras, str)
        rest = escape("".join([f" {name}={value}" for name, value in shown.items()]))
        line = f"{self._paint(f'{clock}.{int(record.msecs):03d}', '2')} {level} {logger}: "
        line += as_lines(_message(record)) + self._paint(rest, "2") * bool(rest)
        stack = _stack(record)
        return f"{line}\n  {as_lines(stack)}" if stack else line


class WriterHandler(logging.Handler):
    """Write records to ``stderr`` (or an empty string), ``stdout``, or the path of a file.

    The code that logs never waits for a slow reader: if the queue is full, records are dropped,
    counted in ``dropped``, and reported in the log when the reader continues. Only a CRITICAL
    record waits until it is written, for 100 ms at most, because the process may be about to end.
    ``flush`` (and so ``logging.shutdown``) waits half a second at most. Raises OSError if a file
    cannot be opened.
    """

    def __init__(self, destination: str) -> None:
        super().__init__()
        self._writer = open_writer(destination, _report_error)
        self._unreported = 0
        """Dropped records that the log does not mention yet."""
        self._is_kept_open = False
        self.is_terminal = self._writer.is_terminal

    @property
    def dropped(self) -> int:
        """The number of lines lost so far."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record's line to the writer."""
        try:
            if not self._write(record):
                self._unreported += 1
            elif self._unreported:
                self._report_dropped()
            if record.levelno >= logging.CRITICAL:
                self._writer.flush(_CRITICAL_SECONDS)
        except Exception:  # noqa: BLE001 -- a call to a logger must not raise
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> bool:
        return self._writer.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))

    def _report_dropped(self) -> None:
        dropped, self._unreported = self._unreported, 0
        message = f"{dropped} log records before the last one were lost: the reader is too slow"
        fields = {"name": __name__, "msg": message, "levelno": logging.WARNING}
        self._write(logging.makeLogRecord({**fields, "levelname": "WARNING"}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Write the place and the error of a record that cannot be formatted.

        The method of logging.Handler prints a traceback with the arguments, which are neither
        escaped nor cut there.
        """
        place, error = f"{record.pathname}:{record.lineno}", sys.exception()
        message = f"the record logged at {place} cannot be written: {_as_text(error)}"
        fields = {"name": record.name, "msg": message, "levelno": logging.ERROR}
        try:
            self._write(logging.makeLogRecord({**fields, "levelname": "ERROR"}))
        except Exception:  # noqa: BLE001 -- a call to a logger must not raise
            self._unreported += 1

    def flush(self) -> None:
        """Wait until all lines are written, for half a second at most."""
        self._writer.flush()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Make ``close`` only flush while the context lasts.

        ``logging.shutdown``, ``dictConfig`` and ``basicConfig(force=True)`` close all handlers.
        """
        self._is_kept_open = True
        try:
            yield
        finally:
            self._is_kept_open = False

    def close(self) -> None:
        """Flush, and close the file that was opened here."""
        if self._is_kept_open:
            self.flush()
            return
        self._writer.close()
        super().close()


def _report_error(error: Exception) -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"gizmopy: log lines are being lost: {escape(cut(str(error)))}\n")
    except (OSError, ValueError):
        pass  # standard error itself has failed


@contextmanager
def configured(
    level: str = "info",
    *,
    destination: str = "",
    log_json: bool | None = None,
    fields: Fields = "plain",
    secrets: Sequence[str] = (),
) -> Iterator[WriterHandler]:
    """Make the root logger write to ``destination`` while the context lasts, then restore it.

    ``destination`` is ``stderr`` (or an empty string), ``stdout``, or the path of a file, opened
    again after it was moved. Lines are JSON, except on a terminal; ``log_json`` overrides that.
    Python's ``warnings`` are logged too. Each of ``secrets``, the longest first, is masked in every
    line. Calls that set up logging anew meanwhile are undone, with a warning: see
    :func:`~gizmopy.observe.kept_set_up.kept_set_up`. Raises OSError if a file cannot be opened.
    """
    handler = WriterHandler(destination)
    as_json = not handler.is_terminal if log_json is None else log_json
    formatter: logging.Formatter = (
        JSONFormatter(fields) if as_json else ConsoleFormatter(colours=handler.is_terminal)
    )
    handler.setFormatter(MaskingFormatter(formatter, secrets) if secrets else formatter)
    # Filters of the handler, not of a logger: those of a logger do not apply to its children.
    handler.addFilter(RateLimitFilter())
    handler.addFilter(ContextFilter())
    # aiohttp warns of each malformed part of a form, and quotes the client unescaped.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"aiohttp\.multipart")
    number = logging.getLevelNamesMapping()[level.upper()]
    try:
        with kept_set_up(handler, number), handler.kept_open():
            logging.captureWarnings(capture=True)
            try:
                yield handler
            finally:
                logging.captureWarnings(capture=False)
    finally:
        handler.close()
