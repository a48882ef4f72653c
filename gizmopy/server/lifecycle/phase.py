"""The phases of a daemon's life."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """A phase of a daemon's life; the log has a line for each."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    CLEANUP = "cleanup"
    EXIT = "exit"
