"""Enter and exit the lifespan of a service."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import AbstractAsyncContextManager

from gizmopy.errors import DeclarationError
from gizmopy.server.lifecycle.shutdown_budget import CLEANUP_SECONDS
from gizmopy.server.lifecycle.unawaited_tasks import WatchedLifespan
from gizmopy.server.service import Service

logger = logging.getLogger("gizmopy.server.server")

Lifespan = AbstractAsyncContextManager[None]


async def enter_lifespan(service: Service) -> Lifespan:
    """Enter the lifespan of ``service`` and return it. Raises DeclarationError if it is none."""
    _check_arguments(service)
    lifespan = service.lifespan()
    if inspect.iscoroutine(lifespan):
        lifespan.close()
    if not isinstance(lifespan, AbstractAsyncContextManager):
        raise DeclarationError(service.lifespan, "decorate it with @asynccontextmanager")
    watched = WatchedLifespan(lifespan)
    await watched.__aenter__()
    return watched


def _check_arguments(service: Service) -> None:
    function = service.lifespan
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        reason = f"is called without arguments ({error}); write: async def lifespan(self)"
        raise DeclarationError(function, reason) from error
    plain = inspect.unwrap(function)
    if inspect.iscoroutinefunction(plain):
        # asynccontextmanager would only fail inside of contextlib, and without the place.
        reason = "has no 'yield', between what opens the resources and what closes them; add it"
        raise DeclarationError(function, reason)


async def exit_lifespan(lifespan: Lifespan) -> bool:
    """Exit it, and return whether that took at most ``CLEANUP_SECONDS``.

    An error that ended the daemon is not passed to it: the service cannot handle that error, and
    the code after its ``yield`` has to run in any case.
    """
    try:
        async with asyncio.timeout(CLEANUP_SECONDS) as timeout:
            await lifespan.__aexit__(None, None, None)
    except TimeoutError:
        if not timeout.expired():
            raise
        logger.error("the clean-up of lifespan took longer than %g s", CLEANUP_SECONDS)
        return False
    return True
