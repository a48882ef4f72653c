"""The log survives code that sets up logging anew."""

import json
import logging
import logging.config
from collections.abc import Callable, Iterator
from logging import disable
from logging.config import dictConfig, fileConfig
from pathlib import Path
from typing import Any

import pytest

from gizmopy.observe import logs

logger = logging.getLogger("tests.observe.kept")
ALEMBIC = """
[loggers]
keys = root,alembic
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = ERROR
handlers = console
[logger_alembic]
level = INFO
handlers =
qualname = tests_alembic
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = %(message)s
"""
WITH_ROOT = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"level": "CRITICAL", "handlers": ["console"]},
}
WITHOUT_ROOT = {"version": 1, "loggers": {"tests_alembic": {"level": "INFO"}}}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Enable the loggers that a test disables, and restore the root logger."""
    root = logging.getLogger()
    handlers, level, kind = root.handlers[:], root.level, type(root)
    manager = type(root.manager)
    yield
    assert (type(root), type(root.manager)) == (kind, manager)
    root.handlers[:], root.level = handlers, level
    logging.disable(logging.NOTSET)
    for each in root.manager.loggerDict.values():
        if isinstance(each, logging.Logger):
            each.disabled = False


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _file_config(tmp_path: Path) -> None:
    ini = tmp_path / "alembic.ini"
    ini.write_text(ALEMBIC)
    fileConfig(ini)


def _assign(_: Path) -> None:
    logging.getLogger().handlers = []


def _delete(_: Path) -> None:
    del logging.getLogger().handlers[:]


def _overwrite(_: Path) -> None:
    logging.getLogger().handlers[:] = [logging.NullHandler()]


def _remove(_: Path) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)


CALLS: dict[str, Callable[[Path], Any]] = {
    "fileConfig": _file_config,
    "dictConfig": lambda _: logging.config.dictConfig(WITH_ROOT),
    "dictConfig by name": lambda _: dictConfig(WITH_ROOT),
    "dictConfig without root": lambda _: logging.config.dictConfig(WITHOUT_ROOT),
    "basicConfig": lambda _: logging.basicConfig(force=True, level="CRITICAL"),
    "basicConfig with handlers": lambda _: logging.basicConfig(
        force=True, handlers=[logging.NullHandler()]
    ),
    "disable": lambda _: logging.disable(),
    "disable by name": lambda _: disable(logging.ERROR),
    "removeHandler": _remove,
    "clear": lambda _: logging.getLogger().handlers.clear(),
    "pop": lambda _: logging.getLogger().handlers.pop(),
    "assigned": _assign,
    "deleted": _delete,
    "overwritten": _overwrite,
}


@pytest.mark.parametrize("name", CALLS)
def test_the_log_survives_a_call_that_sets_up_logging_anew(name: str, tmp_path: Path) -> None:
    """Records are written afterwards, and one warning tells the place and the remedy."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        for _ in range(2):
            CALLS[name](tmp_path)
        logger.info("hello")
        logging.getLogger("gizmopy.server").info("served")
        assert logging.getLogger().level == logging.INFO

    warning, hello, served = _lines(path)
    assert (hello["message"], served["message"]) == ("hello", "served")
    assert warning["level"] == "WARNING"
    assert warning["message"].startswith(f"{__file__}:")
    assert "APP_LOG" in warning["message"]


@pytest.mark.parametrize("name", CALLS)
def test_nothing_outlives_the_set_up(name: str, tmp_path: Path) -> None:
    """After the context the root logger, its manager and logging.config are as before."""
    root = logging.getLogger()
    config: Any = logging.config

    def state() -> tuple[Any, ...]:
        patched = config.dictConfigClass, config._install_loggers
        classes = type(root), type(root.manager), type(root.handlers)
        return (*patched, *classes, root.handlers[:], root.level, root.manager.disable)

    before = state()
    with logs.configured(destination=str(tmp_path / "log")):
        CALLS[name](tmp_path)
    assert state() == before


def test_shutdown_of_logging_does_not_close_the_log(tmp_path: Path) -> None:
    """logging.shutdown() flushes, and later records are written; nothing was undone to tell of."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        logging.shutdown()
        logger.info("hello")
    assert [line["message"] for line in _lines(path)] == ["hello"]


def test_handlers_and_levels_of_the_service_remain(tmp_path: Path) -> None:
    """A handler added to the root logger, and levels of other loggers, are the service's choice."""
    own = logging.NullHandler()
    with logs.configured(destination=str(tmp_path / "log")):
        root = logging.getLogger()
        root.addHandler(own)
        logging.config.dictConfig(WITH_ROOT)
        assert own in root.handlers
        logging.config.dictConfig(WITHOUT_ROOT)
        assert logging.getLogger("tests_alembic").level == logging.INFO
        root.removeHandler(own)
        assert own not in root.handlers
        logging.disable(logging.DEBUG)
        assert root.manager.disable == logging.DEBUG


def test_a_harmless_configuration_is_not_told(tmp_path: Path) -> None:
    """No warning tells of a call that changes other loggers only, or levels incrementally."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        logging.config.dictConfig({**WITHOUT_ROOT, "disable_existing_loggers": False})
        logging.config.dictConfig({"version": 1, "incremental": True, "root": {"level": "DEBUG"}})
        assert logging.getLogger().level == logging.DEBUG
        logging.disable(logging.DEBUG)
        logging.basicConfig(level="ERROR")
    assert _lines(path) == []


def test_a_configuration_that_fails_is_undone_too(tmp_path: Path) -> None:
    """The error of dictConfig reaches its caller, and the log is as it was."""
    path = tmp_path / "log"
    with logs.configured(destination=str(path)):
        wrong = {**WITH_ROOT, "loggers": {"x": {"handlers": ["missing"]}}}
        with pytest.raises(ValueError, match="logger 'x'"):
            logging.config.dictConfig(wrong)
        logger.info("hello")
    assert _lines(path)[-1]["message"] == "hello"


def test_what_was_disabled_before_the_log_is_enabled_and_told(tmp_path: Path) -> None:
    """A module that calls dictConfig or logging.disable when it is imported silences nothing."""
    path = tmp_path / "log"
    logging.getLogger("gizmopy.server")
    logging.config.dictConfig(WITHOUT_ROOT)
    logging.disable()
    with logs.configured(destination=str(path)):
        logging.getLogger("gizmopy.server").info("served")
    first, second, served = [line["message"] for line in _lines(path)]
    assert "logging.disable(CRITICAL)" in first
    assert "disable_existing_loggers=False" in second
    assert served == "served"


def test_a_set_up_within_another_one(tmp_path: Path) -> None:
    """The inner set-up writes to its own file; afterwards the outer one is kept as before."""
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    with logs.configured(destination=str(outer)):
        with logs.configured(destination=str(inner)):
            logging.getLogger().handlers.clear()
            logger.info("inner")
        logging.getLogger().handlers.clear()
        logger.info("outer")
    assert [line["message"] for line in _lines(inner)][1:] == ["inner"]
    assert [line["message"] for line in _lines(outer)][1:] == ["outer"]


def test_lines_in_the_queue_are_flushed_at_exit_after_a_configuration(tmp_path: Path) -> None:
    """logging.shutdown flushes the log although dictConfig has emptied its list of handlers."""
    flushed = []
    with logs.configured(destination=str(tmp_path / "log")) as handler:
        logging.config.dictConfig(WITHOUT_ROOT)
        handler.flush = lambda: flushed.append(True)  # type: ignore[method-assign]
        logging.shutdown()
        del handler.flush
    assert flushed
