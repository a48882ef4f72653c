"""Hold the records of loggers until the log is set up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Holder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def held_records(name: str) -> Iterator[list[logging.LogRecord]]:
    """Yield the records that the logger ``name`` and those below it make while the context lasts.

    No handler gets them. ``log_again`` passes them on once the log is set up: before that they
    would reach standard error as plain text, among the lines of a log of JSON.
    """
    holder = _Holder()
    logger = logging.getLogger(name)
    propagates = logger.propagate
    logger.addHandler(holder)
    logger.propagate = False
    try:
        yield holder.records
    finally:
        logger.propagate = propagates
        logger.removeHandler(holder)


def log_again(records: list[logging.LogRecord]) -> None:
    """Pass held records to the handlers of their loggers, and forget them."""
    for record in records:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    records.clear()
