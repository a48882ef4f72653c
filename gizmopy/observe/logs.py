"""Set up the process's one log: JSON lines for machines, colours for people.

The standard library's logging stands underneath, so that the records of every library come along.
Each record carries the ids of the request and the message it belongs to.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pydantic_core import PydanticSerializationError, to_json

from gizmopy.observe.context import message_id, request_id

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_IDS = ("request_id", "message_id")


class Timestamps:
    """Write times as RFC 3339 in UTC with milliseconds, formatting each second only once."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def __call__(self, seconds: float) -> str:
        """Return ``seconds`` since the epoch as text."""
        milliseconds = int(seconds * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._prefix}.{milliseconds % 1000:03d}Z"


class ContextFilter(logging.Filter):
    """Give each record the ids of the request and the message it belongs to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set ``request_id`` and ``message_id``, unless the record has its own, and keep it."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        if not hasattr(record, "message_id"):
            record.message_id = message_id.get()
        return True


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller gave with ``extra=``, and the ids that are set."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not (name in _IDS and not value)
    }


def _stack(record: logging.LogRecord) -> str:
    """Return the traceback and the stack of a record, or an empty string."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append("".join(traceback.format_exception(*record.exc_info)).rstrip())
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


class JSONFormatter(logging.Formatter):
    """Write a record as one line of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._timestamp = Timestamps()

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object; what JSON cannot hold is written as its repr."""
        fields = {
            "time": self._timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if stack := _stack(record):
            fields["stack"] = stack
        try:
            return to_json(fields, fallback=repr, inf_nan_mode="strings").decode()
        except (PydanticSerializationError, ValueError, TypeError, RecursionError):
            # A lone surrogate, a key that is no text, an object in itself: never lose the record.
            return json.dumps({name: str(value) for name, value in fields.items()})


_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


_LINE_ENDS = {ord(end): repr(end)[1:-1] for end in "\n\r"}
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\t\n"}
"""Control characters, which a terminal would obey: some of a record comes from strangers."""


class ConsoleFormatter(logging.Formatter):
    """Write a record for a person: time, level, logger, message, then the rest as name=value."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, followed by its traceback where it has one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self._paint(f"{record.levelname:<8}", _COLOURS.get(record.levelname, "0"))
        logger = self._paint(record.name, "2")
        extras = (f" {name}={value}" for name, value in _extras(record).items())
        rest = "".join(extras).translate(_ESCAPES | _LINE_ENDS)
        line = f"{self._paint(f'{clock}.{int(record.msecs):03d}', '2')} {level} {logger}: "
        line += record.getMessage().translate(_ESCAPES) + self._paint(rest, "2") * bool(rest)
        return f"{line}\n{stack}" if (stack := _stack(record)) else line


def open_handler(destination: str) -> logging.StreamHandler[Any]:
    """Return a handler for ``stderr`` (or an empty string), ``stdout``, or a file's path.

    A file is opened again when it was moved away, so it survives logrotate. Raises OSError where it
    cannot be opened.
    """
    if destination in ("", "stderr"):
        return logging.StreamHandler(sys.stderr)
    if destination == "stdout":
        return logging.StreamHandler(sys.stdout)
    return _RotatedFileHandler(destination, encoding="utf-8")


class _RotatedFileHandler(logging.handlers.WatchedFileHandler):
    """A file that is opened again when it was moved away; trouble is told, not raised."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. A file that cannot be opened must not fail who logs."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def wants_json(stream: TextIO, log_json: bool | None) -> bool:
    """Return whether to write JSON lines: as told, else unless ``stream`` is a terminal."""
    return not stream.isatty() if log_json is None else log_json


@contextmanager
def configured(
    level: str = "info", *, destination: str = "", log_json: bool | None = None
) -> Iterator[logging.StreamHandler[Any]]:
    """Make the root logger write to ``destination`` while the context lasts, then put it back.

    Warnings of Python's ``warnings`` are logged too. Raises OSError where a file cannot be opened.
    """
    handler = open_handler(destination)
    as_json = wants_json(handler.stream, log_json)
    colours = handler.stream.isatty()
    handler.setFormatter(JSONFormatter() if as_json else ConsoleFormatter(colours=colours))
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    try:
        yield handler
    finally:
        logging.captureWarnings(capture=False)
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        if isinstance(handler, logging.FileHandler):
            handler.close()
