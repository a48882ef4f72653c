"""Clear log lines of secrets: an error of a library may quote the password that it was given."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gizmopy.untrusted.hidden import masked


class MaskingFormatter(logging.Formatter):
    """Write a record as another formatter does, with ``***`` in place of each secret.

    ``secrets`` are texts as they may stand in a line, the longest first.
    """

    def __init__(self, formatter: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._formatter = formatter
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line without secrets."""
        return masked(self._formatter.format(record), self._secrets)
