"""The process's one log."""

import io
import json
import logging
import warnings
from pathlib import Path

import pytest

from gizmopy.observe import logs
from gizmopy.observe.context import message_id, request_id

logger = logging.getLogger("tests.observe")


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


def test_every_record_carries_the_ids_of_its_request_and_message(tmp_path: Path) -> None:
    """A record says which request and message it belongs to, a library's record too."""
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


def test_a_traceback_stands_in_its_record(tmp_path: Path) -> None:
    """An exception's traceback is a field of its record, not lines of its own."""
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
def test_a_value_that_json_cannot_hold_does_not_lose_the_record(value: object) -> None:
    """Whatever is given with extra=, the record is written as valid JSON."""
    line = json.loads(_format(logs.JSONFormatter(), odd=value))

    assert line["message"] == "hello Tom"
    assert "odd" in line


def test_a_value_that_holds_itself_does_not_lose_the_record() -> None:
    """A list in itself is written as text."""
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
    """What a library warns of comes along."""
    path = tmp_path / "log"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logs.configured(destination=str(path)):
            warnings.warn("old", UserWarning, stacklevel=1)

    assert "UserWarning: old" in str(_lines(path)[0]["message"])


def test_the_root_logger_is_put_back() -> None:
    """Leaving the context restores the handlers and the level."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    with logs.configured("debug"):
        assert root.level == logging.DEBUG
        assert root.handlers != before[1]

    assert (root.level, root.handlers) == before


def test_a_file_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    """The log survives logrotate: what comes after the move is in the new file."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        logger.error("one")
        path.rename(tmp_path / "log.1")
        logger.error("two")

    assert [line["message"] for line in _lines(path)] == ["two"]
    assert [line["message"] for line in _lines(tmp_path / "log.1")] == ["one"]


def test_people_get_text_on_a_terminal() -> None:
    """A terminal is given colours and name=value; a pipe told to be readable gets no colours."""
    plain = _format(logs.ConsoleFormatter(colours=False), levelname="INFO", cats=3)
    painted = _format(logs.ConsoleFormatter(colours=True), levelname="INFO", cats=3)

    assert plain.endswith("INFO     cats: hello Tom cats=3")
    assert "\x1b[32mINFO" in painted
    assert "\x1b" not in plain


def test_a_stranger_cannot_steer_the_terminal() -> None:
    """Control characters in a message or a value are written out, and no value begins a line."""
    line = _format(logs.ConsoleFormatter(colours=False), msg="a\x1b[2Jb", args=(), path="c\nd\x7f")

    assert line.endswith(r"a\x1b[2Jb path=c\nd\x7f")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "asked", "expected"),
    [
        (io.StringIO(), None, True),
        (_Terminal(), None, False),
        (io.StringIO(), False, False),
        (_Terminal(), True, True),
    ],
)
def test_json_is_for_machines_unless_told(
    stream: io.StringIO, asked: bool | None, expected: bool
) -> None:
    """JSON is written unless a terminal shows it, or as the setting says."""
    assert logs.wants_json(stream, asked) is expected


def test_times_are_utc_with_milliseconds() -> None:
    """A time is written as RFC 3339, in UTC, its milliseconds cut, not rounded up."""
    timestamp = logs.Timestamps()

    assert timestamp(0.9999) == "1970-01-01T00:00:00.999Z"
    assert timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
