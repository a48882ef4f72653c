"""Read a file of settings, and warn of one that other users can change."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from gizmopy.untrusted.text import escape

logger = logging.getLogger(__name__)


def read_settings(path: Path) -> str:
    """Return the text of a file. Raises OSError, and UnicodeDecodeError if it is not UTF-8.

    A file that belongs to another user than root and this process's, or that its group or others
    may write, is warned of: these users can change how the daemon runs.
    """
    with path.open(encoding="utf-8-sig") as file:
        found = os.fstat(file.fileno())
        text = file.read()
    if reason := _writable_by(found):
        logger.warning("the settings file %s is used, but %s", escape(str(path)), reason)
    return text


def _writable_by(found: os.stat_result) -> str:
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}; chown it to the daemon's user"
    writers = (("its group", stat.S_IWGRP), ("every user", stat.S_IWOTH))
    names = [name for name, bit in writers if found.st_mode & bit]
    return f"{' and '.join(names)} may write it; run chmod go-w" if names else ""
