"""Change a logger's level while the process runs, and change it back by itself.

Somebody who turns on debugging in production forgets to turn it off, so every change has an end.
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
"""How many loggers may be made that nobody has logged with: the process keeps them for ever."""

logger = logging.getLogger(__name__)


class Level(TypedDict):
    """What a logger logs: its own level, if it has one, and the one that counts."""

    level: str | None
    effective: str


class Levels:
    """Change levels, each for a time; leaving the context changes all of them back.

    Use it as a context manager, one per server, on the event loop. Loggers belong to the process:
    two servers that change the same one see each other's change.
    """

    def __init__(self) -> None:
        self._originals: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._new: set[str] = set()

    def __enter__(self) -> Levels:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._originals):
            self._revert(name)

    def report(self) -> dict[str, Level]:
        """Return the levels of every logger there is, by its name; the root's is ``root``."""
        there = {"root": logging.getLogger()} | {
            name: known
            for name, known in sorted(logging.getLogger().manager.loggerDict.items())
            if isinstance(known, logging.Logger)
        }
        return {name: _level(known) for name, known in there.items()}

    def set(self, name: str, level: str | None, ttl: timedelta | None = _TTL) -> None:
        """Set the level of the logger ``name`` for ``ttl``; None: until the context is left.

        ``level`` is ``debug``, ``info``, ``warning``, ``error`` or ``critical`` in any case; None
        takes the logger's own away, so that its parent's counts. A logger changed before gets the
        new ``ttl``, and at its end the level that it had at first. Raises ValueError for a level
        that is none, a ``ttl`` that is not positive, an impossible name, or too many new names.
        """
        number = _number(name, level)
        if ttl is not None and ttl <= timedelta(0):
            raise ValueError(f"ttl {ttl} is not positive; give how long the level shall hold")
        self._admit(name)
        changed = logging.getLogger(name)
        if name in self._timers:
            self._timers.pop(name).cancel()
        self._originals.setdefault(name, changed.level)
        changed.setLevel(number)
        if ttl is not None:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(ttl.total_seconds(), self._revert, name)

    def _admit(self, name: str) -> None:
        """Take a name. Raises ValueError where it could fill the memory, or is none."""
        if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
            raise ValueError(f"a logger's name has 1 to {_NAME_LENGTH} printable characters")
        if name in ("root", *self._new) or name in logging.getLogger().manager.loggerDict:
            return
        if len(self._new) >= _NEW_LOGGERS:
            raise ValueError(
                f"logger {name!r} does not exist, and {_NEW_LOGGERS} were made already; "
                "set the level of one that exists, or of its parent"
            )
        self._new.add(name)

    def _revert(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()
        logging.getLogger(name).setLevel(self._originals.pop(name))
        logger.warning("logger %s: its level is what it was", name)


def _level(known: logging.Logger) -> Level:
    own = logging.getLevelName(known.level) if known.level else None
    return {"level": own, "effective": logging.getLevelName(known.getEffectiveLevel())}


def _number(name: str, level: str | None) -> int:
    if level is None:
        if name == "root":
            raise ValueError("the root logger has no parent; give it a level")
        return logging.NOTSET
    if level.lower() not in _LEVELS:
        raise ValueError(f"level {level!r} is none; give one of {', '.join(_LEVELS)}, or null")
    return logging.getLevelNamesMapping()[level.upper()]
