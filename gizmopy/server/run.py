"""Run a service as the process: settings, logs, signals, the event loop, and the exit code."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence

from gizmopy.config import Settings, load
from gizmopy.errors import GizmoError, StartError
from gizmopy.observe import logs
from gizmopy.server.servable import Servable
from gizmopy.server.server import SimpleServer
from gizmopy.server.signals import Signals, Stop

logger = logging.getLogger(__name__)


def run(
    service: type[Servable], argv: Sequence[str] | None = None, signals: Signals | None = None
) -> int:
    """Run ``service`` until a signal stops it, and return the process's exit code.

    ``argv`` holds the flags (default: the command line's). ``signals`` are those caught since
    before ``service`` was imported, where somebody did. Call it in the main thread.
    """
    signals = Signals() if signals is None else signals
    try:
        settings = load(service.settings_class(), sys.argv[1:] if argv is None else argv).settings
        with logs.configured(
            settings.log_level, destination=settings.log_file, log_json=settings.log_json
        ):
            return _run(service, settings, signals)
    except GizmoError as error:
        print(f"gizmopy: {error}", file=sys.stderr)  # noqa: T201 -- there is no log yet
        return error.exit_code
    except OSError as error:
        print(f"gizmopy: APP_LOG: {error}", file=sys.stderr)  # noqa: T201 -- there is no log
        return StartError.exit_code
    finally:
        signals.restore()


def _run(service: type[Servable], settings: Settings, signals: Signals) -> int:
    """Run with logging set up; whatever ends the daemon is logged here, once."""

    async def main() -> int:
        stop = Stop()
        signals.attach(stop)
        return await SimpleServer(service(settings)).serve(stop)

    try:
        with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
            return runner.run(main())
    except GizmoError as error:
        logger.critical("%s", error)
        return error.exit_code
    except Exception:
        logger.critical("the daemon went down", exc_info=True)
        return 1


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
