"""Read a file of settings, and log a warning if other users can change it."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from gizmopy.untrusted.text import escape

logger = logging.getLogger(__name__)


def read_settings_file(path: Path) -> str:
    """Return the text of a file. Raises OSError, and UnicodeDecodeError if it is not UTF-8.

    Logs a warning if other users can change the file.
    """
    with path.open(encoding="utf-8-sig") as file:
        status = os.fstat(file.fileno())
        text = file.read()
    warn_if_insecure(path, status)
    return text


def warn_if_insecure(path: Path, status: os.stat_result) -> None:
    """Log a warning if other users can change a file, and so how the daemon runs.

    That is if a user other than root and the user of this process owns it, or if its group or every
    user may write it.
    """
    if reason := _insecure(status):
        logger.warning("the settings file %s is insecure: %s", escape(str(path)), reason)


def _insecure(status: os.stat_result) -> str:
    """Return why other users can change a file, and the remedy; empty if they cannot."""
    if status.st_uid not in (0, os.geteuid()):
        return f"user {status.st_uid} owns it; chown it to the daemon's user"
    writers = (("its group", stat.S_IWGRP), ("every user", stat.S_IWOTH))
    names = [name for name, bit in writers if status.st_mode & bit]
    return f"{' and '.join(names)} may write it; run chmod go-w" if names else ""
