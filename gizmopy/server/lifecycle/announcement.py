"""Log what a daemon serves, at its start."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gizmopy.server.application import Application

logger = logging.getLogger("gizmopy.server.server")


def log_declarations(app: Application, url: str, admin_url: str) -> None:
    """Log the addresses of a daemon, its endpoints, its subscriptions and its jobs.

    ``admin_url`` is empty without an admin port.
    """
    logger.info("%s listens on %s", app.name, url, extra={"url": url})
    if admin_url:
        logger.info("the admin port is %s", admin_url, extra={"url": admin_url})
    for route in app.routes:
        logger.info("endpoint %s %s → %s", route.method, route.path, route.name)
    for row in app.channels.describe():
        logger.info("subscription %s of %s → %s", row.subscription, row.url, row.handler)
    for job in app.jobs.all:
        logger.info("job %s runs %s", job.name, job.schedule)
