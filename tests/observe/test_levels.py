"""Levels that change at run time, and change back."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest

from gizmopy.observe.levels import LogLevels

CATS = "tests.levels.cats"


@pytest.fixture
def levels() -> Iterator[LogLevels]:
    """Levels to change, and a logger that has one of its own."""
    logging.getLogger(CATS).setLevel(logging.ERROR)
    with LogLevels() as levels:
        yield levels
    logging.getLogger(CATS).setLevel(logging.NOTSET)


async def _until(name: str, level: int) -> None:
    async with asyncio.timeout(5):
        while logging.getLogger(name).level != level:  # noqa: ASYNC110 -- a logger tells nobody
            await asyncio.sleep(0)


def test_the_report_tells_own_and_effective_levels(levels: LogLevels) -> None:
    """Every logger is there with its own level, if it has one, and the one that counts."""
    logging.getLogger(f"{CATS}.kittens")
    report = levels.report()

    assert report[CATS] == {"level": "ERROR", "effective": "ERROR"}
    assert report[f"{CATS}.kittens"] == {"level": None, "effective": "ERROR"}
    assert report["root"]["level"] == logging.getLevelName(logging.getLogger().level)


def test_a_name_that_is_only_a_parent_is_no_logger(levels: LogLevels) -> None:
    """What the standard library keeps a place for, and nobody has asked for, is left out."""
    logging.getLogger("tests.levels.place.leaf")

    assert "tests.levels.place" not in levels.report()


async def test_a_level_holds_until_its_time_is_over(levels: LogLevels) -> None:
    """A change takes effect at once and is undone when its ttl is over."""
    levels.set(CATS, "Debug", timedelta(microseconds=1))
    assert logging.getLogger(CATS).level == logging.DEBUG

    await _until(CATS, logging.ERROR)


async def test_a_second_change_keeps_the_first_level_to_return_to(levels: LogLevels) -> None:
    """The second change's end counts, and brings back the level before the first."""
    levels.set(CATS, "debug", timedelta(microseconds=1))
    levels.set(CATS, "info", timedelta(hours=1))
    levels.set("tests.levels.dogs", "debug", timedelta(microseconds=1))
    await _until("tests.levels.dogs", logging.NOTSET)
    assert logging.getLogger(CATS).level == logging.INFO

    levels.set(CATS, "critical", timedelta(microseconds=1))
    await _until(CATS, logging.ERROR)


async def test_leaving_the_context_undoes_every_change() -> None:
    """A server that stops leaves levels as it found them, and no timer."""
    root = logging.getLogger()
    before = root.level
    with LogLevels() as levels:
        levels.set("root", "critical")
        levels.set(CATS, "debug", None)
        levels.set(CATS, "info", None)
        assert root.level == logging.CRITICAL

    assert (root.level, logging.getLogger(CATS).level) == (before, logging.NOTSET)


async def test_no_level_is_the_parents(levels: LogLevels) -> None:
    """None takes a logger's own level away."""
    levels.set(CATS, None)

    assert levels.report()[CATS]["level"] is None


async def test_a_logger_may_come_to_be_later(levels: LogLevels) -> None:
    """A level may be set ahead of the module that will log."""
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
async def test_what_cannot_be_is_refused(
    levels: LogLevels, name: str, level: str | None, ttl: int, message: str
) -> None:
    """A refused change changes nothing and says what would be right."""
    before = levels.report()
    with pytest.raises(ValueError, match=message):
        levels.set(name, level, timedelta(seconds=ttl))

    assert levels.report() == before


async def test_made_up_names_cannot_fill_the_memory(levels: LogLevels) -> None:
    """A hundred loggers that nobody has asked for may be made; those that exist still change."""
    for number in range(100):
        levels.set(f"tests.levels.made-up-{number}", "debug")

    with pytest.raises(ValueError, match="100 new loggers were created"):
        levels.set("tests.levels.made-up-100", "debug")
    levels.set("tests.levels.made-up-0", "info")
    levels.set(CATS, "debug")
    assert logging.getLogger(CATS).level == logging.DEBUG
