"""Log levels that change at run time, and are reset."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest

from gizmopy.observe.levels import LogLevels

CATS = "tests.levels.cats"


@pytest.fixture
def levels() -> Iterator[LogLevels]:
    """LogLevels, and a logger with a level of its own."""
    logging.getLogger(CATS).setLevel(logging.ERROR)
    with LogLevels() as levels:
        yield levels
    logging.getLogger(CATS).setLevel(logging.NOTSET)


async def _until(name: str, level: int) -> None:
    async with asyncio.timeout(5):
        while logging.getLogger(name).level != level:  # noqa: ASYNC110 -- a logger has no event
            await asyncio.sleep(0)


def test_the_report_has_own_and_effective_levels(levels: LogLevels) -> None:
    """Each logger has its own level, if it has one, and the effective level."""
    logging.getLogger(f"{CATS}.kittens")
    report = levels.report()

    assert report[CATS] == {"level": "ERROR", "effective": "ERROR"}
    assert report[f"{CATS}.kittens"] == {"level": None, "effective": "ERROR"}
    assert report["root"]["level"] == logging.getLevelName(logging.getLogger().level)


def test_a_placeholder_is_not_a_logger(levels: LogLevels) -> None:
    """A name that exists in logging only as a parent is left out."""
    logging.getLogger("tests.levels.place.leaf")

    assert "tests.levels.place" not in levels.report()


async def test_a_level_is_reset_after_its_ttl(levels: LogLevels) -> None:
    """It takes effect immediately."""
    levels.set(CATS, "Debug", timedelta(microseconds=1))
    assert logging.getLogger(CATS).level == logging.DEBUG

    await _until(CATS, logging.ERROR)


async def test_a_second_change_keeps_the_original_level(levels: LogLevels) -> None:
    """Its own ttl counts, and the reset goes back to the level before the first change."""
    levels.set(CATS, "debug", timedelta(microseconds=1))
    levels.set(CATS, "info", timedelta(hours=1))
    levels.set("tests.levels.dogs", "debug", timedelta(microseconds=1))
    await _until("tests.levels.dogs", logging.NOTSET)
    assert logging.getLogger(CATS).level == logging.INFO

    levels.set(CATS, "critical", timedelta(microseconds=1))
    await _until(CATS, logging.ERROR)


async def test_leaving_the_context_resets_every_level() -> None:
    """No timer is left, either."""
    root = logging.getLogger()
    before = root.level
    with LogLevels() as levels:
        levels.set("root", "critical")
        levels.set(CATS, "debug", None)
        levels.set(CATS, "info", None)
        assert root.level == logging.CRITICAL

    assert (root.level, logging.getLogger(CATS).level) == (before, logging.NOTSET)


async def test_none_inherits_the_level_of_the_parent(levels: LogLevels) -> None:
    """It removes the logger's own level."""
    levels.set(CATS, None)

    assert levels.report()[CATS]["level"] is None


async def test_a_level_may_be_set_before_the_logger_exists(levels: LogLevels) -> None:
    """The module that logs may be imported later."""
    levels.set("tests.levels.later", "debug")

    assert levels.report()["tests.levels.later"]["level"] == "DEBUG"


@pytest.mark.parametrize(
    ("name", "level", "ttl", "message"),
    [
        (CATS, "loud", 1, "level 'loud' is unknown; use debug, info, warning, error, crit"),
        (CATS, "NOTSET", 1, "use debug"),
        (CATS, "debug", 0, "ttl 0:00:00 is not positive"),
        ("root", None, 1, "the root logger has no parent"),
        ("", "debug", 1, "1 to 200 printable characters"),
        ("a" * 201, "debug", 1, "1 to 200 printable characters"),
        ("a\nb", "debug", 1, "1 to 200 printable characters"),
    ],
)
async def test_an_invalid_change_is_refused(
    levels: LogLevels, name: str, level: str | None, ttl: int, message: str
) -> None:
    """It has no effect, and the error has the remedy."""
    before = levels.report()
    with pytest.raises(ValueError, match=message):
        levels.set(name, level, timedelta(seconds=ttl))

    assert levels.report() == before


async def test_new_names_cannot_fill_the_memory(levels: LogLevels) -> None:
    """A hundred new loggers may be created; existing ones can still be changed."""
    for number in range(100):
        levels.set(f"tests.levels.made-up-{number}", "debug")

    with pytest.raises(ValueError, match="100 new loggers were created"):
        levels.set("tests.levels.made-up-100", "debug")
    levels.set("tests.levels.made-up-0", "info")
    levels.set(CATS, "debug")
    assert logging.getLogger(CATS).level == logging.DEBUG
