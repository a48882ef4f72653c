"""Run a service as the process: settings, logs, signals, the event loop, and the exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from gizmopy._aio import background
from gizmopy.config import Loaded, Settings, load, report
from gizmopy.config.secrets.known import known_secrets
from gizmopy.errors import GizmoError, StartError
from gizmopy.observe import logs
from gizmopy.observe.uncaught import logging_uncaught
from gizmopy.server.http.listening.descriptors import raise_limit
from gizmopy.server.lifecycle.shutdown_budget import Budget
from gizmopy.server.lifecycle.signals import Signals, Stop
from gizmopy.server.lifecycle.standard_streams import occupy
from gizmopy.server.lifecycle.watchdog import LastResort
from gizmopy.server.server import EXIT_FORCED, SimpleServer
from gizmopy.server.service import Service, make_service, settings_class
from gizmopy.untrusted.error_text import named
from gizmopy.untrusted.text import as_lines

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 10.0
"""What publishers whose brokers are away may take besides the budget of a shutdown."""
_LATE_SECONDS = 2.0
"""How long threads and tasks may be left, once all that the server knows of has ended."""


def run(
    service: type[Service], argv: Sequence[str] | None = None, signals: Signals | None = None
) -> int:
    """Run ``service`` until a signal stops it, and return the process's exit code.

    ``argv`` holds the flags (default: the command line's). ``signals`` are those caught since
    before ``service`` was imported, where somebody did. Call it in the main thread.
    """
    occupy()
    signals = Signals() if signals is None else signals
    signals.ignore_at_exit()
    gc.disable()  # until all is imported and compiled, which makes next to no garbage
    argv = sys.argv[1:] if argv is None else argv
    try:
        if {"-h", "--help"} & set(argv):
            print(report.as_text(report.rows(settings_class(service))))  # noqa: T201 -- asked for
            return 0
        loaded = load(settings_class(service), argv)
        with _logging(loaded.settings):
            return _run(service, loaded, signals)
    except GizmoError as error:
        print(f"gizmopy: {as_lines(str(error))}", file=sys.stderr)  # noqa: T201 -- no log yet
        return error.exit_code
    finally:
        gc.enable()


@contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    """Set up the log. Raises StartError where its file cannot be opened."""
    configured = logs.configured(
        settings.log_level,
        destination=settings.log_file,
        log_json=settings.log_json,
        fields=settings.log_fields,
        secrets=known_secrets(settings),
    )
    try:
        configured.__enter__()
    except OSError as error:
        raise StartError(f"APP_LOG: {error}") from error
    try:
        with logging_uncaught():
            yield
    finally:
        configured.__exit__(None, None, None)


def _run(service: type[Service], loaded: Loaded[Settings], signals: Signals) -> int:
    """Run with logging set up; whatever ends the daemon is logged here, once."""

    raise_limit()
    settings = loaded.settings

    async def main(last_resort: LastResort) -> int:
        stop = Stop()
        # Also while the loop hangs, and would not see the request to stop.
        signals.attach(stop, lambda: last_resort.arm_second(_longest(settings, stop)))
        server = SimpleServer(make_service(service, settings), origins=loaded.origins)
        # What was imported and compiled is there to stay: no collection need look at it again.
        gc.freeze()
        gc.enable()
        return await _serve(server, stop, last_resort)

    try:
        with (
            LastResort(EXIT_FORCED) as last_resort,
            asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner,
        ):
            code = runner.run(main(last_resort))
            if code == EXIT_FORCED:
                _leave_at_once(code)
            return code
    except GizmoError as error:
        logger.critical("%s", error)
        return error.exit_code
    except Exception as error:
        logger.critical("the daemon went down: %s", named(error), exc_info=True)
        return 1


async def _serve(server: SimpleServer, stop: Stop, last_resort: LastResort) -> int:
    """Serve until ``stop`` is requested; from then on the process has a limited time to end."""

    async def limit() -> None:
        await stop.wait()
        last_resort.arm(_longest(server.settings, stop))

    try:
        async with background(limit(), name="gizmopy-watchdog"):
            return await server.serve(stop)
    finally:
        last_resort.arm(_LATE_SECONDS)


def _longest(settings: Settings, stop: Stop) -> float:
    """Return the seconds that a shutdown takes at most, its last flush included."""
    return Budget(settings, stop).total + _FLUSH_SECONDS


def _leave_at_once(code: int) -> NoReturn:
    """End the process although tasks or threads are left: their time to end is over."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: ``uvloop``, ``asyncio``, or ``auto`` for the best there is.

    Raises StartError where uvloop is asked for and not installed.
    """
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError as error:
        if name == "auto":
            return None
        raise StartError(
            "GIZMO_LOOP=uvloop: uvloop is not installed; try: pip install 'gizmopy[uvloop]'"
        ) from error
    return uvloop.new_event_loop
