"""Keep the set-up of the log against code that sets up logging anew.

``fileConfig`` and ``dictConfig``, which alembic's ``env.py`` calls, replace the handlers of the
root logger and disable all loggers that exist. ``basicConfig(force=True)``, ``logging.disable`` and
``root.handlers.clear()`` are as thorough. The daemon would be silent from then on, about every
error, and nothing would say so.

The parts of logging that this module replaces or reads, each only while a set-up lasts:

- ``logging.config.dictConfigClass``, which is documented for that;
- ``logging.config._install_loggers``, the last step of ``fileConfig``: the function itself has been
  imported by name already;
- the classes of the root logger and of its manager, because ``root.handlers = []`` and
  ``manager.disable = 50`` call no function.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, SupportsIndex

logger = logging.getLogger(__name__)

_LOGGING = str(Path(logging.__file__).parent)
_ESSENTIAL = ("gizmopy", "asyncio", "aiohttp", "aiokafka")
"""Loggers that tell of faults of the daemon, and are there before the module of the service."""
_REMEDY = (
    "Set the log up with APP_LOG, APP_LOG_LEVEL, APP_LOG_JSON_FMT and GIZMO_LOG_FIELDS, add a "
    "handler with logging.getLogger().addHandler, and leave the call out when the service runs"
)


class _Handlers(list[logging.Handler]):
    """The handlers of the root logger, of which ``kept`` cannot be removed."""

    def __init__(self, handlers: Iterable[logging.Handler], keeper: _Keeper) -> None:
        super().__init__(handlers)
        self.keeper = keeper
        self._keep()

    def _keep(self) -> None:
        if self.keeper.handler not in self:
            super().insert(0, self.keeper.handler)
            self.keeper.tell("removed the handler of the log from the root logger", "it stays")

    def remove(self, value: logging.Handler) -> None:
        super().remove(value)
        self._keep()

    def pop(self, index: SupportsIndex = -1) -> logging.Handler:
        removed = super().pop(index)
        self._keep()
        return removed

    def clear(self) -> None:
        super().clear()
        self._keep()

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        super().__delitem__(index)
        self._keep()

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self._keep()


class _Root(logging.RootLogger):
    """A root logger whose list of handlers may be assigned, but keeps the one of the log."""

    @property
    def handlers(self) -> list[logging.Handler]:
        handlers: list[logging.Handler] = vars(self)["handlers"]
        return handlers

    @handlers.setter
    def handlers(self, value: Iterable[logging.Handler]) -> None:
        vars(self)["handlers"] = _Handlers(value, vars(self)["handlers"].keeper)


class _Manager(logging.Manager):
    """A manager that does not disable the levels that the log has."""

    @property
    def disable(self) -> int:
        level: int = vars(self)["_disable"]
        return level

    @disable.setter
    def disable(self, value: int | str) -> None:
        number = logging.getLevelNamesMapping().get(value) if isinstance(value, str) else value
        keeper = logging.getLogger().handlers.keeper  # type: ignore[attr-defined]  # it is _Handlers
        if number is not None and number >= keeper.level:
            name = logging.getLevelName(number)
            keeper.tell(f"disabled the levels up to {name}", "they stay enabled")
        else:
            logging.Manager.disable.fset(self, value)  # type: ignore[attr-defined]  # a property


class _Keeper:
    """What a set-up keeps, and the places that were told already."""

    def __init__(self, handler: logging.Handler, level: int) -> None:
        self.handler = handler
        self.level = level
        self.is_reconfiguring = False
        """Whether a call is running whose changes are undone, and told, at its end."""
        self._told: set[tuple[str, int, str]] = set()
        self._flushed: logging.Handler | None = None

    def tell(self, change: str, undone: str) -> None:
        """Warn of a ``change`` by the code that calls logging now, once for each place."""
        if self.is_reconfiguring:
            return
        place = _caller()
        if (*place, change) not in self._told:
            self._told.add((*place, change))
            logger.warning("%s:%d %s: %s. %s", *place, change, undone, _REMEDY)

    @contextmanager
    def reconfiguring(self) -> Iterator[None]:
        """Restore the root logger and the disabled loggers after a call that sets up logging."""
        root = logging.getLogger()
        handlers, level, enabled = root.handlers[:], root.level, list(_loggers(disabled=False))
        self.is_reconfiguring = True
        try:
            yield
        finally:
            changes = []
            if root.handlers != handlers or root.level != level:
                root.handlers[:] = handlers
                root.setLevel(level)
                changes.append("the handlers and the level of the root logger are restored")
            if disabled := [each for each in enabled if each.disabled]:
                _enable(disabled)
                changes.append(f"{len(disabled)} loggers that it disabled are enabled again")
            # The call has emptied logging's list of handlers to flush when the process ends.
            self._flushed = _FlushedAtExit(self.handler)
            self.is_reconfiguring = False
            if changes:
                self.tell("set up logging anew", " and ".join(changes))


class _FlushedAtExit(logging.NullHandler):
    """Flush another handler when logging flushes this one: at the end of the process."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def flush(self) -> None:
        self._handler.flush()


def _caller() -> tuple[str, int]:
    """Return the file and the line of the innermost code outside of logging."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__
        or frame.f_code.co_filename.startswith((_LOGGING, "<frozen "))
        or frame.f_globals.get("__name__") == "contextlib"
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _loggers(*, disabled: bool) -> Iterator[logging.Logger]:
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for each in known:
        if isinstance(each, logging.Logger) and each.disabled == disabled:
            yield each


def _enable(loggers: Iterable[logging.Logger]) -> None:
    for each in loggers:
        each.disabled = False


@contextmanager
def kept_set_up(handler: logging.Handler, level: int) -> Iterator[None]:
    """Make ``handler`` and ``level`` those of the root logger, whatever other code does to it.

    Leaving the context restores the root logger as it was before. Calls that set up logging anew
    are undone while it lasts, and one warning for each place tells of them. Handlers that are added
    to the root logger, and levels of other loggers, remain.
    """
    root = logging.getLogger()
    keeper = _Keeper(handler, level)
    with ExitStack() as undo:
        undo.enter_context(_replaced_root(root, keeper))
        before = root.level
        undo.callback(root.setLevel, before)
        root.setLevel(level)
        undo.enter_context(_essential_enabled(level))
        undo.enter_context(_wrapped_calls(keeper))
        yield


@contextmanager
def _replaced_root(root: logging.Logger, keeper: _Keeper) -> Iterator[None]:
    manager = root.manager
    classes, handlers = (root.__class__, manager.__class__), vars(root)["handlers"]
    vars(root)["handlers"] = _Handlers([keeper.handler], keeper)
    root.__class__, manager.__class__ = _Root, _Manager
    try:
        yield
    finally:
        root.__class__, manager.__class__ = classes
        vars(root)["handlers"] = handlers


@contextmanager
def _essential_enabled(level: int) -> Iterator[None]:
    """Enable what the service's module disabled when it was imported, before there was a log."""
    manager = logging.getLogger().manager
    before = manager.disable
    disabled = [
        each for each in _loggers(disabled=True) if each.name.partition(".")[0] in _ESSENTIAL
    ]
    _enable(disabled)
    if before >= level:
        logging.disable(logging.NOTSET)
        logger.warning(
            "logging.disable(%s) was called before the log was set up: it is undone. %s",
            *(logging.getLevelName(before), _REMEDY),
        )
    if disabled:
        logger.warning(
            "%d loggers were disabled before the log was set up, such as %s: they are enabled. "
            "Call dictConfig or fileConfig with disable_existing_loggers=False. %s",
            *(len(disabled), disabled[0].name, _REMEDY),
        )
    try:
        yield
    finally:
        vars(manager)["_disable"] = before
        manager._clear_cache()  # type: ignore[attr-defined]  # as logging.disable does
        for each in disabled:
            each.disabled = True


@contextmanager
def _wrapped_calls(keeper: _Keeper) -> Iterator[None]:
    """Undo the changes of ``dictConfig`` and ``fileConfig`` while the context lasts."""
    config: Any = logging.config
    configurator: type[Any] = config.dictConfigClass
    install: Callable[..., None] | None = getattr(config, "_install_loggers", None)

    class Configurator(configurator):  # type: ignore[misc]  # it may be a user's class
        def configure(self) -> None:
            if self.config.get("incremental"):  # it sets levels, and disables nothing
                super().configure()
                return
            with keeper.reconfiguring():
                super().configure()

    def install_loggers(*args: Any) -> None:
        assert install is not None
        with keeper.reconfiguring():
            install(*args)

    config.dictConfigClass = Configurator
    if install is not None:
        config._install_loggers = install_loggers
    try:
        yield
    finally:
        config.dictConfigClass = configurator
        if install is not None:
            config._install_loggers = install
