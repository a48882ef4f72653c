"""Raise the limit of file descriptors, and derive the limit of connections from it."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger("gizmopy.server.descriptors")

ADMIN_CONNECTIONS = 16
"""The limit of connections of the admin port, which are not counted for the main port."""
_LEAST_FREE = 32
"""The least number of descriptors that are left for files, brokers and child processes."""
_FREE_PART = 4
"""The fraction of descriptors that is left for those, if that is more: one in four."""
_UNLIMITED = 1024 * 1024
"""The assumed number of descriptors if there is no limit: ``nr_open`` of Linux."""


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit, as Go does, and log it.

    The soft limit is low, often 1024, because of programs that use ``select()``. Child processes
    inherit the raised limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # in a sandbox; on macOS, whose hard limit is unlimited
        logger.info("the limit of file descriptors remains %d: %s", soft, error)
    else:
        logger.info("raised the limit of file descriptors from %d to %d", soft, hard)


def max_connections() -> int:
    """Return the default limit of connections of the main port.

    It is the soft limit of descriptors, minus a quarter of it, and minus 32 at least.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = _UNLIMITED
    return max(1, soft - max(soft // _FREE_PART, _LEAST_FREE))
