"""Run a service as the process: settings, logs, signals, the event loop, and the exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from gizmopy._aio import background
from gizmopy.config import Loaded, Settings, load, report
from gizmopy.config.secrets.known import known_secrets
from gizmopy.config.secrets.reveal import secret_settings
from gizmopy.errors import GizmoError, StartError
from gizmopy.observe import logs
from gizmopy.observe.held_records import held_records, log_again
from gizmopy.observe.uncaught import logging_uncaught
from gizmopy.server.http.listening.descriptors import raise_limit
from gizmopy.server.lifecycle.shutdown_budget import ShutdownBudget
from gizmopy.server.lifecycle.signals import Signals, Stop
from gizmopy.server.lifecycle.standard_streams import reserve_standard_streams
from gizmopy.server.lifecycle.unfinished import terminate_children
from gizmopy.server.lifecycle.watchdog import Watchdog
from gizmopy.server.server import EXIT_FORCED, SimpleServer
from gizmopy.server.service import Service, make_service, settings_class
from gizmopy.untrusted.error_text import describe_error
from gizmopy.untrusted.text import as_lines

logger = logging.getLogger(__name__)

_BROKER_SECONDS = 20.0
"""The time beyond the shutdown budget if brokers do not answer, or handlers ignore their
cancellation: 10 s for subscribers, 5 s for publishers, 5 s for drivers."""
_LATE_SECONDS = 2.0
"""The time after the drain for tasks, threads, child processes and exit hooks of the service."""


def run(
    service: type[Service], argv: Sequence[str] | None = None, signals: Signals | None = None
) -> int:
    """Run ``service`` until a signal stops it, and return the process's exit code.

    ``argv`` holds the flags (default: the command line's). ``signals`` has caught signals since
    before ``service`` was imported; the default catches them from now on. Call it in the main
    thread, and last: the process has 2 s to end after it. Then it is killed with its own exit code,
    or with 70 if that would be 0, and the log names the threads and processes that are left.
    """
    reserve_standard_streams()
    signals = Signals() if signals is None else signals
    signals.ignore_at_exit()
    # Imports and the compiling of routes make many objects that live on, and next to no garbage:
    # collections would only make the start slower.
    gc.disable()
    argv = sys.argv[1:] if argv is None else argv
    try:
        if {"-h", "--help"} & set(argv):
            print(report.as_text(report.rows(settings_class(service))))  # noqa: T201 -- the user asks for it
            return 0
        return _run_process(service, argv, signals)
    except GizmoError as error:
        print(f"gizmopy: {as_lines(str(error))}", file=sys.stderr)  # noqa: T201 -- no log yet
        return error.exit_code
    finally:
        gc.enable()


def _run_process(service: type[Service], argv: Sequence[str], signals: Signals) -> int:
    """Run with a log that lasts, and a limit on the exit.

    Raises GizmoError for an error before the log is set up.
    """
    lifetime = ExitStack()
    watchdog = Watchdog(EXIT_FORCED, lifetime)
    try:
        # Never left: hooks of atexit and threads may log until the process has ended.
        loaded = lifetime.enter_context(_logging(settings_class(service), argv))
        code = _run(service, loaded, signals, watchdog)
    except GizmoError as error:
        watchdog.exit_code = error.exit_code
        raise
    else:
        watchdog.exit_code = code or EXIT_FORCED
    finally:
        watchdog.arm_at_most(_LATE_SECONDS)
    return code


@contextmanager
def _logging(kind: type[Settings], argv: Sequence[str]) -> Iterator[Loaded[Settings]]:
    """Load the settings, and set up the log while the context lasts.

    The warnings of loading are logged as soon as the settings of the log are known; if they cannot
    be loaded, they are printed. Raises ConfigError, and StartError if the log cannot be opened.
    """
    with held_records("gizmopy.config") as warnings:
        try:
            loaded = load(kind, argv)
        except GizmoError:
            for record in warnings:
                print(f"gizmopy: warning: {as_lines(record.getMessage())}", file=sys.stderr)  # noqa: T201 -- no log yet
            raise
    settings = loaded.settings
    configured = logs.configured(
        settings.log_level,
        destination=settings.log_file,
        log_json=settings.log_json,
        fields=settings.log_fields,
        secrets=known_secrets(settings, secret_settings(loaded)),
    )
    try:
        configured.__enter__()
    except OSError as error:
        raise StartError(f"APP_LOG: {error}") from error
    try:
        with logging_uncaught():
            log_again(warnings)
            yield loaded
    finally:
        configured.__exit__(None, None, None)


def _run(
    service: type[Service], loaded: Loaded[Settings], signals: Signals, watchdog: Watchdog
) -> int:
    """Run with logging set up. An error that ends the daemon is logged here, once."""
    raise_limit()
    settings = loaded.settings

    async def main() -> int:
        stop = Stop()
        watchdog.loop = asyncio.get_running_loop()
        # In the signal handler, because a blocked event loop never sees the request to stop.
        signals.attach(stop, lambda: watchdog.arm_second_stage(_longest_shutdown(settings, stop)))
        server = SimpleServer(make_service(service, settings), origins=loaded.origins)
        # Imported and compiled objects live as long as the process: collections skip them now.
        gc.freeze()
        gc.enable()
        return await _serve(server, stop, watchdog)

    try:
        with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
            code = runner.run(main())
            if code == EXIT_FORCED:
                # The handlers that were cancelled at the deadline may still run. Leaving the Runner
                # would wait for them.
                _exit_at_once(code)
            return code
    except GizmoError as error:
        logger.critical("%s", error)
        return error.exit_code
    except Exception as error:
        logger.critical("the daemon failed: %s", describe_error(error), exc_info=True)
        return 1


async def _serve(server: SimpleServer, stop: Stop, watchdog: Watchdog) -> int:
    """Serve until ``stop`` is requested; from then on the watchdog limits the shutdown."""

    async def arm_at_stop() -> None:
        await stop.wait()
        watchdog.arm(_longest_shutdown(server.settings, stop))

    try:
        async with background(arm_at_stop(), name="gizmopy-watchdog"):
            return await server.serve(stop)
    finally:
        # The drain is over. asyncio.Runner now cancels the tasks that are left, and waits for them
        # without a limit; then it waits for the threads of the default executor.
        watchdog.arm(_LATE_SECONDS)


def _longest_shutdown(settings: Settings, stop: Stop) -> float:
    """Return the seconds that a shutdown takes at most, also if brokers do not answer."""
    return ShutdownBudget(settings, stop).total + _BROKER_SECONDS


def _exit_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads: their deadline has passed."""
    terminate_children()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of the event loop; None for asyncio's own.

    ``name`` is ``uvloop``, ``asyncio``, or ``auto``: uvloop if it is installed. Raises StartError
    if ``uvloop`` is not installed.
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
