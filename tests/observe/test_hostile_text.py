"""Text of a client in a log: it controls no terminal, forges no line, and fills no disk."""

import gc
import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gizmopy.observe import logs
from gizmopy.observe.access import AccessLog
from gizmopy.observe.context import request_id
from gizmopy.observe.uncaught import logging_uncaught

FORGED = "12:00:00.000 INFO     cats: forged"
HOSTILE = (
    f"\x1b[2J\x9b2J\x7f\x00\r{FORGED}\x85{FORGED}\u2028{FORGED}\u2029\u202e\u2066\u200b\ufeff\udcff"
    f"\v\f\x1c\U000e0001\n{FORGED}"
)

logger = logging.getLogger("tests.observe")


def _fail(text: str) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ExceptionGroup(text, [ValueError(text), OSError(2, text, text)]) from error


def _unregistered(name: str) -> logging.Logger:
    """Return a logger that is not registered: logging never removes a registered one."""
    logger = logging.Logger(name)
    logger.parent = logging.getLogger()
    return logger


def _log_everywhere(text: str) -> None:
    """Log ``text`` in each place that a record has for it."""
    token = request_id.set(text)
    try:
        extra = {
            "plain": text,
            text: 1,
            "nested": {text: [text]},
            "raw": text.encode("utf-8", "replace"),
        }
        _unregistered(f"cats.{text}").error("%s", text, extra=extra, stack_info=True)
        try:
            _fail(text)
        except ExceptionGroup as error:
            error.add_note(text)
            logger.exception(text)
    finally:
        request_id.reset(token)


@pytest.fixture(params=["console", "colours", "plain", "gcp"])
def written(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """The output of the log, in each format."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    if request.param == "colours":
        monkeypatch.setattr(stream, "isatty", lambda: True)
    fields: logs.Fields = "gcp" if request.param == "gcp" else "plain"
    as_json = request.param in ("plain", "gcp")
    with logs.configured("debug", log_json=as_json, fields=fields):
        yield stream


def _records(written: io.StringIO) -> list[str]:
    """Return the records that a reader of lines sees, and check that the log wrote each."""
    text = re.sub(r"\x1b\[[\d;]+m", "", written.getvalue())  # the log's own colours
    assert text.replace("\n", "").replace("\t", "").isprintable()
    if text.startswith("{"):
        lines = text.splitlines()
        assert all(isinstance(json.loads(line, parse_int=str), dict) for line in lines)
        return lines
    return re.split(r"\n(?!  )", text.rstrip("\n"))


def test_a_record_cannot_control_a_terminal_or_forge_a_line(written: io.StringIO) -> None:
    """Messages, extras, ids, names, tracebacks and stacks are escaped, in each format."""
    _log_everywhere(HOSTILE)

    records = _records(written)
    assert len(records) == 2
    assert not any(record.startswith(FORGED) for record in records)


def test_json_keeps_the_value() -> None:
    """A reader of JSON gets an escaped character back unchanged."""
    text = HOSTILE.replace("\udcff", "")
    record = logging.makeLogRecord({"msg": text, "args": (), "cats": text})
    line = logs.JSONFormatter().format(record)

    assert line.isprintable()
    assert json.loads(line)["message"] == json.loads(line)["cats"] == text


def test_a_line_is_bounded(written: io.StringIO) -> None:
    """A record of many megabytes becomes a line of some hundred kilobytes, which notes the cuts."""
    long = "\x9b" * 3_000_000
    token = request_id.set(long)
    logger.error("%s", long, extra={"a": long, "b": [long], "c": {"d": long}, "e": long.encode()})
    request_id.reset(token)
    try:
        _fail(long)
    except ExceptionGroup:
        logger.exception(long)
    logger.error("many", extra={f"n{number}": "x" * 1000 for number in range(1000)})

    records = _records(written)
    assert len(records) == 3
    assert all(len(record) < 1_000_000 for record in records)
    assert "(3000000 characters)" in records[0]
    assert "extras_left_out" in records[2]


def test_a_short_record_is_whole(written: io.StringIO) -> None:
    """A record within the limits is not cut, and no extra is left out."""
    text = "x" * logs.MAX_TEXT
    logger.error(text, extra={"a": "y" * (logs.MAX_EXTRAS // 2 - 10), "b": [1, {"c": 2}]})

    (record,) = _records(written)
    assert text in record
    assert "y" * (logs.MAX_EXTRAS // 2 - 10) in record
    assert "characters)" not in record
    assert "left_out" not in record


class _Silent:
    def __str__(self) -> str:
        raise ValueError(HOSTILE)

    __repr__ = __str__


def _circular() -> list[Any]:
    loop: list[Any] = ["x" * logs.MAX_TEXT]
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "odd",
    [_Silent(), {"a": _Silent()}, 10**5000, _circular()],
    ids=["silent", "within", "int", "circular"],
)
def test_an_extra_without_a_text_does_not_lose_the_record(
    written: io.StringIO, odd: object
) -> None:
    """Only the value is replaced."""
    logger.error("hello", extra={"odd": odd})

    (record,) = _records(written)
    assert "hello" in record


def test_a_record_that_cannot_be_formatted_is_reported(written: io.StringIO) -> None:
    """Wrong arguments do not lose the message; the line has its place, and no raw value."""
    fields = {"msg": f"%d {HOSTILE}", "args": (HOSTILE,), "pathname": __file__, "name": HOSTILE}
    level = {"levelno": logging.ERROR, "levelname": "ERROR"}
    (handler,) = [each for each in logging.getLogger().handlers if type(each) is logs.WriterHandler]
    handler.handle(logging.makeLogRecord(fields | level))  # pytest's own handler would raise

    (record,) = _records(written)
    assert f"[not formatted: TypeError at {__file__}:" in record


def test_errors_that_python_prints_are_logged(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that ends a thread, or of a finalizer, is a record like any other."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Broken:
        def __del__(self) -> None:
            raise ValueError(HOSTILE)

    with logging_uncaught():
        thread = threading.Thread(target=_fail, args=(HOSTILE,), name=HOSTILE)
        thread.start()
        thread.join()
        ending = threading.Thread(target=sys.exit)
        ending.start()
        ending.join()
        Broken()
        gc.collect()

    assert threading.excepthook is threading.__excepthook__
    assert sys.unraisablehook is sys.__unraisablehook__
    first, second = _records(written)
    assert "an error ended the thread" in first
    assert "Broken.__del__" in second or "Exception ignored in" in second


def test_a_programs_own_hooks_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that a program or its error reporting has set is still called."""
    hook = lambda args: None  # noqa: E731
    monkeypatch.setattr(threading, "excepthook", hook)
    monkeypatch.setattr(sys, "unraisablehook", hook)
    with logging_uncaught():
        assert threading.excepthook is hook
        assert sys.unraisablehook is hook


@pytest.mark.parametrize(
    "style", [{}, {"fields": "gcp"}, {"format": "combined"}, {"log_json": False}]
)
async def test_an_access_line_cannot_control_a_terminal(
    tmp_path: Path, style: dict[str, Any]
) -> None:
    """A text of a client becomes one printable line, in each format."""
    path = tmp_path / "access"
    async with AccessLog(str(path), **style) as access:
        fixed = access.fixed_part("GET", "/cats", 200)
        access.write(fixed, "r1", HOSTILE, 0.1, 1, HOSTILE, HOSTILE, referer=HOSTILE)

    (line,) = path.read_text().splitlines()
    assert line.isprintable()
