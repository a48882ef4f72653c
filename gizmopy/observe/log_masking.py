"""Mask secrets in log lines: the error of a library may quote the password that it was given."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gizmopy.untrusted.hidden import masked


class MaskingFormatter(logging.Formatter):
    """Format a record with another formatter, and replace each secret by ``***``.

    ``secrets`` are texts that may occur in a line, the longest first.
    """

    def __init__(self, formatter: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._formatter = formatter
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line without secrets."""
        return masked(self._formatter.format(record), self._secrets)
