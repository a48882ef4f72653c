"""Repeated records of a library are suppressed."""

import logging

import pytest

from gizmopy.observe.logs import configured
from gizmopy.observe.rate_limit import RateLimitFilter


def record(name: str, line: int, level: int = logging.ERROR, *args: object) -> logging.LogRecord:
    """Return a record of a library."""
    text = "node %s is down"
    return logging.LogRecord(name, level, "conn.py", line, text, args or (1,), None)


def test_a_line_passes_once_and_later_with_the_number_suppressed() -> None:
    """Ten seconds later the same line passes again, with the number of those suppressed."""
    now = 0.0
    repeats = RateLimitFilter({"lib"}, seconds=10, clock=lambda: now)
    assert repeats.filter(record("lib.conn", 7))
    assert not any(repeats.filter(record("lib.conn", 7, logging.ERROR, n)) for n in range(5))
    now = 10.0
    again = record("lib.conn", 7, logging.ERROR, 3)
    assert repeats.filter(again)
    assert again.getMessage() == "node 3 is down (and 5 similar records before)"
    now = 20.0
    assert repeats.filter(last := record("lib.conn", 7))
    assert last.getMessage() == "node 1 is down"


@pytest.mark.parametrize(
    ("name", "line", "level"),
    [
        ("lib.conn", 8, logging.ERROR),
        ("library.conn", 7, logging.ERROR),
        ("cats", 7, logging.ERROR),
        ("lib.conn", 7, logging.DEBUG),
    ],
)
def test_other_records_pass(name: str, line: int, level: int) -> None:
    """Another line, another library, the daemon's own loggers, and debug records."""
    repeats = RateLimitFilter({"lib"}, clock=lambda: 0.0)
    assert repeats.filter(record("lib.conn", 7))
    assert repeats.filter(record(name, line, level))


def test_a_daemon_limits_the_records_of_aiokafka(capfd: pytest.CaptureFixture[str]) -> None:
    """The log has each repeated record of aiokafka once, and all of the daemon's own."""
    with configured(log_json=False):
        for _ in range(20):
            logging.getLogger("aiokafka.conn").error("no broker")
            logging.getLogger("cats").error("no milk")
    written = capfd.readouterr().err
    assert (written.count("no broker"), written.count("no milk")) == (1, 20)
