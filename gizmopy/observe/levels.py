"""Change the levels of loggers in a running process, each for a limited time.

Debug logging that is turned on in production is easily forgotten, so every change ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TypedDict

_LEVELS = ("debug", "info", "warning", "error", "critical")
_TTL = timedelta(minutes=10)
_NAME_LENGTH = 200
_NEW_LOGGERS = 100
"""The limit on loggers that a change creates: logging keeps each for the life of the process."""

logger = logging.getLogger(__name__)


class LoggerLevel(TypedDict):
    """A logger's own level, None if it has none, and the level in effect."""

    level: str | None
    effective: str


class LogLevels:
    """Change the levels of loggers; leaving the context resets all of them.

    Use it as a context manager, one per server, on the event loop. Loggers belong to the process:
    if two servers change the same logger, each sees the change of the other.
    """

    def __init__(self) -> None:
        self._originals: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._new: set[str] = set()

    def __enter__(self) -> LogLevels:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._originals):
            self._revert(name)

    def report(self) -> dict[str, LoggerLevel]:
        """Return the levels of every logger by name; the root logger's name is ``root``."""
        loggers = {"root": logging.getLogger()} | {
            name: known
            for name, known in sorted(logging.getLogger().manager.loggerDict.items())
            if isinstance(known, logging.Logger)
        }
        return {name: _level(known) for name, known in loggers.items()}

    def set(self, name: str, level: str | None, ttl: timedelta | None = _TTL) -> None:
        """Set the level of the logger ``name`` for ``ttl``; None keeps it until the context ends.

        ``level`` is ``debug``, ``info``, ``warning``, ``error`` or ``critical`` in any case; None
        makes the logger inherit its parent's. A second change of a logger gets a new ``ttl``, and
        after it the logger's original level. Raises ValueError for an unknown level, a ``ttl`` that
        is not positive, an invalid name, and too many new names.
        """
        number = _number(name, level)
        if ttl is not None and ttl <= timedelta(0):
            raise ValueError(f"ttl {ttl} is not positive; give a duration such as 10m")
        self._check_name(name)
        changed = logging.getLogger(name)
        if name in self._timers:
            self._timers.pop(name).cancel()
        # setdefault: a second change must not make the level of the first one the original.
        self._originals.setdefault(name, changed.level)
        changed.setLevel(number)
        if ttl is not None:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(ttl.total_seconds(), self._revert, name)

    def _check_name(self, name: str) -> None:
        """Accept a logger's name. Raises ValueError if it is invalid, or one new name too many."""
        if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
            raise ValueError(f"a logger's name has 1 to {_NAME_LENGTH} printable characters")
        if name in ("root", *self._new) or name in logging.getLogger().manager.loggerDict:
            return
        if len(self._new) >= _NEW_LOGGERS:
            raise ValueError(
                f"logger {name!r} does not exist, and {_NEW_LOGGERS} new loggers were created "
                "already; set the level of an existing logger, such as its parent"
            )
        self._new.add(name)

    def _revert(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()
        logging.getLogger(name).setLevel(self._originals.pop(name))
        logger.warning("the level of logger %s is reset", name)


def _level(known: logging.Logger) -> LoggerLevel:
    own = logging.getLevelName(known.level) if known.level else None
    return {"level": own, "effective": logging.getLevelName(known.getEffectiveLevel())}


def _number(name: str, level: str | None) -> int:
    if level is None:
        if name == "root":
            raise ValueError("the root logger has no parent to inherit from; give a level")
        return logging.NOTSET
    if level.lower() not in _LEVELS:
        raise ValueError(f"level {level!r} is unknown; use {', '.join(_LEVELS)}, or null")
    return logging.getLevelNamesMapping()[level.upper()]
