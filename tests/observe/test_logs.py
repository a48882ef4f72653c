"""The log of the process."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import IO

import pytest

from gizmopy.observe import logs
from gizmopy.observe.context import message_id, propagated_attributes, request_id

logger = logging.getLogger("tests.observe")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _format(formatter: logging.Formatter, **fields: object) -> str:
    record = logging.makeLogRecord({"msg": "hello %s", "args": ("Tom",), "name": "cats", **fields})
    logs.ContextFilter().filter(record)
    return formatter.format(record)


def test_a_record_is_one_line_of_json(tmp_path: Path) -> None:
    """A record in a file is one JSON object with time, level, logger, message and extras."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        logger.warning("hello\n%s", "Tom", extra={"cats": 3})

    (line,) = _lines(path)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "tests.observe",
        "message": "hello\nTom",
        "cats": 3,
    }


def test_every_record_has_the_ids_of_its_request_and_message(tmp_path: Path) -> None:
    """A record of a library has them too."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        request, message = request_id.set("r1"), message_id.set("m1")
        logging.getLogger("somebody.elses").error("hello")
        request_id.reset(request)
        message_id.reset(message)
        logger.info("outside")

    inside, outside = _lines(path)
    assert (inside["request_id"], inside["message_id"]) == ("r1", "m1")
    assert "request_id" not in outside
    assert "message_id" not in outside


def test_a_traceback_is_a_field_of_its_record(tmp_path: Path) -> None:
    """It is not written as lines of its own."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("failed")

    (line,) = _lines(path)
    assert "ValueError: boom" in str(line["stack"])


@pytest.mark.parametrize(
    "value",
    ["\udcff", object(), {1: "one", ("a",): object()}, float("nan"), b"\xff"],
    ids=["surrogate", "object", "keys", "nan", "bytes"],
)
def test_a_value_that_json_cannot_represent_does_not_lose_the_record(value: object) -> None:
    """With any value in extra=, the record is valid JSON."""
    line = json.loads(_format(logs.JSONFormatter(), odd=value))

    assert line["message"] == "hello Tom"
    assert "odd" in line


def test_a_value_that_contains_itself_does_not_lose_the_record() -> None:
    """A list that contains itself is written as text."""
    loop: list[object] = []
    loop.append(loop)

    assert json.loads(_format(logs.JSONFormatter(), odd=loop))["odd"] == "[[...]]"


def test_the_level_decides_what_is_written(tmp_path: Path) -> None:
    """Records below the level are left out."""
    path = tmp_path / "log"
    with logs.configured("error", destination=str(path)):
        logger.warning("quiet")
        logger.error("loud")

    assert [line["message"] for line in _lines(path)] == ["loud"]


def test_pythons_warnings_are_logged(tmp_path: Path) -> None:
    """A warning of a library is a record."""
    path = tmp_path / "log"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logs.configured(destination=str(path)):
            warnings.warn("old", UserWarning, stacklevel=1)

    assert "UserWarning: old" in str(_lines(path)[0]["message"])


def test_the_root_logger_is_restored() -> None:
    """Leaving the context restores the handlers and the level."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    with logs.configured("debug"):
        assert root.level == logging.DEBUG
        assert root.handlers != before[1]

    assert (root.level, root.handlers) == before


def test_a_file_is_reopened_after_logrotate(tmp_path: Path) -> None:
    """Records after the move are in the new file."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)) as handler:
        logger.error("one")
        handler.flush()
        path.rename(tmp_path / "log.1")
        logger.error("two")

    assert [line["message"] for line in _lines(path)] == ["two"]
    assert [line["message"] for line in _lines(tmp_path / "log.1")] == ["one"]


def test_lines_on_a_terminal_are_text() -> None:
    """A terminal gets colours and name=value; a pipe with log_json=False gets no colours."""
    plain = _format(logs.ConsoleFormatter(colours=False), levelname="INFO", cats=3)
    painted = _format(logs.ConsoleFormatter(colours=True), levelname="INFO", cats=3)

    assert plain.endswith("INFO     cats: hello Tom cats=3")
    assert "\x1b[32mINFO" in painted
    assert "\x1b" not in plain


def test_a_client_cannot_control_the_terminal() -> None:
    """Control characters in a message or a value are escaped, and no value begins a line."""
    line = _format(logs.ConsoleFormatter(colours=False), msg="a\x1b[2Jb", args=(), path="c\nd\x7f")

    assert line.endswith(r"a\x1b[2Jb path=c\nd\x7f")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "log_json", "expected"),
    [
        (io.StringIO(), None, logs.JSONFormatter),
        (_Terminal(), None, logs.ConsoleFormatter),
        (io.StringIO(), False, logs.ConsoleFormatter),
        (_Terminal(), True, logs.JSONFormatter),
    ],
)
def test_lines_are_json_except_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO,
    log_json: bool | None,
    expected: type[logging.Formatter],
) -> None:
    """log_json overrides that."""
    monkeypatch.setattr("sys.stderr", stream)
    with logs.configured(log_json=log_json) as handler:
        assert type(handler.formatter) is expected
        logger.error("hello")

    assert "hello" in stream.getvalue()


def test_a_record_for_google_cloud(tmp_path: Path) -> None:
    """It has the names that Google Cloud reads; a custom level has a known severity."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path), fields="gcp"):
        token = propagated_attributes.set({"traceparent": TRACEPARENT})
        logger.log(35, "hello %s", "Tom", extra={"cats": 3})
        propagated_attributes.reset(token)

    (line,) = _lines(path)
    assert str(line.pop("time")).endswith("Z")
    source = line.pop("logging.googleapis.com/sourceLocation")
    assert isinstance(source, dict)
    assert source["file"] == __file__
    assert source["line"].isdigit()
    assert source["function"] == "test_a_record_for_google_cloud"
    assert line == {
        "severity": "WARNING",
        "logger": "tests.observe",
        "message": "hello Tom",
        "cats": 3,
        "logging.googleapis.com/trace": "4bf92f3577b34da6a3ce929d0e0e4736",
    }


def test_a_traceback_for_error_reporting(tmp_path: Path) -> None:
    """With Google's names, a traceback is the ``stack_trace``, from its first line on."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path), fields="gcp"):
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("failed")

    (line,) = _lines(path)
    assert line["severity"] == "ERROR"
    assert str(line["stack_trace"]).startswith("Traceback (most recent call last):\n")
    assert str(line["stack_trace"]).endswith("ValueError: boom")


@pytest.mark.parametrize(
    ("level", "severity"),
    [(5, "DEBUG"), (20, "INFO"), (40, "ERROR"), (50, "CRITICAL"), (99, "CRITICAL")],
)
def test_every_level_has_a_severity(level: int, severity: str) -> None:
    """A level between two of Google's has the lower one."""
    assert json.loads(_format(logs.JSONFormatter("gcp"), levelno=level))["severity"] == severity


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [(TRACEPARENT, "4bf92f3577b34da6a3ce929d0e0e4736"), (None, None), ("nonsense", None)],
)
def test_a_record_has_the_trace_id(
    tmp_path: Path, traceparent: str | None, trace: str | None
) -> None:
    """It is taken from the trace context of the current task."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        token = propagated_attributes.set(
            {} if traceparent is None else {"traceparent": traceparent}
        )
        logger.info("hello")
        propagated_attributes.reset(token)

    assert _lines(path)[0].get("trace_id") == trace


def test_records_that_exceed_the_queue_are_dropped_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stalled reader blocks no caller; later the log has the number of lost records."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe, os.fdopen(reader, "rb") as output:
        monkeypatch.setattr("sys.stderr", pipe)
        with logs.configured() as handler:
            while not handler.dropped:
                logger.warning("x" * 4000)
            logger.warning("lost".ljust(4000))
            dropped = handler.dropped
            received = _read_until_flushed(output, handler)
            logger.warning("passed")
        pipe.close()
        received += output.read()

    messages = [json.loads(line)["message"] for line in received.splitlines()]
    assert "lost".ljust(4000) not in messages
    assert messages[-2:] == [
        "passed",
        f"{dropped} log records before the last one were lost: the reader is too slow",
    ]


def _read_until_flushed(output: IO[bytes], handler: logging.Handler) -> bytes:
    received = bytearray()
    os.set_blocking(output.fileno(), False)
    writer = handler._writer  # type: ignore[attr-defined] # whether it is done is its to say
    while not writer.flush(0.01):
        received += output.read() or b""
    received += output.read() or b""
    os.set_blocking(output.fileno(), True)
    return bytes(received)


_CRASH = """
import logging, os, sys
from gizmopy.observe import logs
with logs.configured(destination=sys.argv[1]):
    logging.{level}("the last words")
    {then}
    os._exit(70)
"""


@pytest.mark.parametrize(
    ("level", "then"), [("critical", ""), ("info", "logging.shutdown()"), ("info", "sys.exit(70)")]
)
@pytest.mark.parametrize("destination", ["stderr", "file"])
def test_the_last_records_are_written(
    tmp_path: Path, level: str, then: str, destination: str
) -> None:
    """A critical record is written immediately, others by logging.shutdown() or an exit."""
    path = tmp_path / "log"
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            _CRASH.format(level=level, then=then),
            str(path) if destination == "file" else destination,
        ],
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )

    assert ended.returncode == 70
    assert b"the last words" in (path.read_bytes() if destination == "file" else ended.stderr)


_STALLED = """
import logging
from gizmopy.observe import logs
with logs.configured():
    for number in range(1000):
        logging.critical("x" * 1000) if number == 999 else logging.warning("x" * 1000)
"""


def test_a_reader_that_stalls_does_not_delay_the_exit() -> None:
    """A daemon whose standard error has a stalled reader ends with its own exit code."""
    with subprocess.Popen([sys.executable, "-c", _STALLED], stderr=subprocess.PIPE) as stalled:
        assert stalled.wait(timeout=30) == 0


def test_a_record_that_cannot_be_written_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk loses records and writes one line to standard error; no caller fails."""

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with logs.configured(destination=str(tmp_path / "log")) as handler:
        monkeypatch.setattr(os, "write", full)
        for _ in range(3):
            logger.error("hello")
            handler.flush()

    assert handler.dropped == 3
    expected = "gizmopy: log lines are being lost: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == expected


def test_times_are_utc_with_milliseconds() -> None:
    """A time is written as RFC 3339 in UTC, with its milliseconds rounded down."""
    timestamp = logs.Timestamps()

    assert timestamp(0.9999) == "1970-01-01T00:00:00.999Z"
    assert timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"


class _Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("%d cats", ("many",), "%d cats [not formatted: TypeError at "),
        ("cats", (3, "Tom"), "cats [not formatted: TypeError at "),
        ("%(name)s", ({"age": 3},), "%(name)s [not formatted: KeyError at "),
        ("100% %s", ("Tom",), "100% %s [not formatted: ValueError at "),
        (_Unprintable(), (), "<_Unprintable that cannot be shown> [not formatted: ValueError at "),
        ("%s", (_Unprintable(),), "%s [not formatted: ValueError at "),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_record_that_cannot_be_formatted_is_one_line(
    tmp_path: Path, message: object, args: tuple[object, ...], expected: str, as_json: bool
) -> None:
    """It keeps its level and its extras, and has the arguments and the place."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path), log_json=as_json):
        logger.warning(message, *args, extra={"request": 7})

    (line,) = path.read_text().splitlines()
    for text in (expected, "test_logs.py:", "WARNING", "request"):
        assert text in line
    for arg in args:
        if not isinstance(arg, _Unprintable | dict):
            assert str(arg) in line
    if as_json:
        assert json.loads(line)["request"] == 7


@pytest.mark.parametrize("fields", ["plain", "gcp"])
def test_an_extra_does_not_overwrite_a_field(fields: logs.Fields) -> None:
    """It gets an underscore, so that neither is lost."""
    extras = dict.fromkeys(("time", "level", "severity", "logger", "stack"), "mine")
    formatter = logs.JSONFormatter(fields)
    known = {"created": 0.0, "levelno": logging.INFO, "levelname": "INFO"}
    standard = json.loads(_format(formatter, **known))
    line = json.loads(_format(formatter, **known, **extras, time_="other"))

    assert standard.items() <= line.items()
    assert line["time_"] == "mine" or line["time__"] == "mine"
    assert sorted(line.values(), key=str).count("mine") == len(extras)
    assert "other" in line.values()
