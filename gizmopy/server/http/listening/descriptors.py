"""Know how many file descriptors there are, and how many of them connections may take."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger("gizmopy.server.descriptors")

ADMIN_CONNECTIONS = 16
"""The number of connections that the admin port takes, besides those of the main port."""
_LEAST_FREE = 32
"""The least number of descriptors that is kept for files, brokers and child processes."""
_FREE_PART = 4
"""A quarter of all descriptors is kept for those, if that is more."""
_UNLIMITED = 1024 * 1024
"""The number of descriptors that is reckoned with if there is no limit: Linux' ``nr_open``."""


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard one, as Go does, and log it.

    The soft limit is low, often 1024, for programs that call ``select()``. Child processes inherit
    the raised limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a sandbox; macOS, whose hard limit is none
        logger.info("the limit of file descriptors stays at %d: %s", soft, error)
    else:
        logger.info("the limit of file descriptors is raised from %d to %d", soft, hard)


def max_connections() -> int:
    """Return how many connections the main port takes by default.

    That is the soft limit of descriptors, less a quarter and less 32 at least.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = _UNLIMITED
    return max(1, soft - max(soft // _FREE_PART, _LEAST_FREE))
