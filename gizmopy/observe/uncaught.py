"""Log the errors that Python prints itself: those that end a thread, and those in a finalizer.

Python writes their tracebacks to standard error unescaped. An error may quote text of a client,
which could then control a terminal. And a reader of JSON lines fails at a line that is not JSON.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def logging_uncaught() -> Iterator[None]:
    """Log such errors while the context lasts; hooks that the program has set stay in place."""
    threads, cleanups = threading.excepthook, sys.unraisablehook
    if threads is threading.__excepthook__:
        threading.excepthook = _log_thread
    if cleanups is sys.__unraisablehook__:
        sys.unraisablehook = _log_unraisable
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = threads, cleanups


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:  # as in threading.excepthook
        return
    name = "" if args.thread is None else args.thread.name
    logger.error("an error ended the thread %s", name, exc_info=args.exc_value)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    # The object is not shown: its repr would run while the object is being destroyed.
    reason = args.err_msg or "Exception ignored in"
    logger.error("%s %s", reason, type(args.object).__qualname__, exc_info=args.exc_value)
