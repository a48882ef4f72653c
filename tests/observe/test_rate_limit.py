"""What a library repeats is heard once in a while."""

import logging

import pytest

from gizmopy.observe.logs import configured
from gizmopy.observe.rate_limit import RateLimitFilter


def record(name: str, line: int, level: int = logging.ERROR, *args: object) -> logging.LogRecord:
    """Return what a line of a library logs."""
    text = "node %s is away"
    return logging.LogRecord(name, level, "conn.py", line, text, args or (1,), None)


def test_a_line_is_heard_once_and_then_with_what_was_held_back() -> None:
    """Ten seconds later the same line is heard again, and says how often it was not."""
    now = 0.0
    repeats = RateLimitFilter({"lib"}, seconds=10, clock=lambda: now)
    assert repeats.filter(record("lib.conn", 7))
    assert not any(repeats.filter(record("lib.conn", 7, logging.ERROR, n)) for n in range(5))
    now = 10.0
    again = record("lib.conn", 7, logging.ERROR, 3)
    assert repeats.filter(again)
    assert again.getMessage() == "node 3 is away (and 5 similar records before)"
    now = 20.0
    assert repeats.filter(last := record("lib.conn", 7))
    assert last.getMessage() == "node 1 is away"


@pytest.mark.parametrize(
    ("name", "line", "level"),
    [
        ("lib.conn", 8, logging.ERROR),
        ("library.conn", 7, logging.ERROR),
        ("cats", 7, logging.ERROR),
        ("lib.conn", 7, logging.DEBUG),
    ],
)
def test_what_is_not_the_same_is_heard(name: str, line: int, level: int) -> None:
    """Another line, another library, the daemon's own loggers, and what is for debugging."""
    repeats = RateLimitFilter({"lib"}, clock=lambda: 0.0)
    assert repeats.filter(record("lib.conn", 7))
    assert repeats.filter(record(name, line, level))


def test_a_daemon_hears_its_kafka_client_once(capfd: pytest.CaptureFixture[str]) -> None:
    """The logs of a daemon hold each of the client's complaints once, and all of its own."""
    with configured(log_json=False):
        for _ in range(20):
            logging.getLogger("aiokafka.conn").error("no broker")
            logging.getLogger("cats").error("no milk")
    written = capfd.readouterr().err
    assert (written.count("no broker"), written.count("no milk")) == (1, 20)
