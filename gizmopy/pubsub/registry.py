"""Find the driver for a broker's URL by its scheme, and import it only then."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from gizmopy.config.urls import redacted_url, split_broker_url
from gizmopy.errors import DriverNotInstalled, UnknownScheme
from gizmopy.pubsub.addresses import Resolve, by_path
from gizmopy.pubsub.driver import Driver

GROUP = "gizmopy.pubsub"
"""The entry-point group in which third parties register: ``nats = gizmo_nats:open_driver``."""

PROVISION_GROUP = "gizmopy.pubsub.provision"
"""The entry-point group of functions that create topics: ``nats = gizmo_nats:provision``."""

RESOLVE_GROUP = "gizmopy.pubsub.resolve"
"""The entry-point group of functions that say what a URL of a scheme means: see ``Resolve``."""

_BUILT_IN = {
    "kafka": "gizmopy.pubsub.brokers.kafka:open_driver",
    "memory": "gizmopy.pubsub.brokers.memory:open_driver",
}
_BUILT_IN_PROVISION = {"kafka": "gizmopy.pubsub.brokers.kafka:provision"}
_BUILT_IN_RESOLVE: dict[str, str] = {}
"""Empty: ``kafka`` and ``memory`` keep to the default rule."""


def open_driver(url: str) -> Driver:
    """Return a new driver for ``url``; it does not connect yet.

    Raises UsageError if ``url`` is not a URL, UnknownScheme if no driver is registered for its
    scheme, and DriverNotInstalled if the library of the driver is missing.
    """
    scheme = split_broker_url(url).scheme
    known = _known(GROUP, _BUILT_IN)
    if scheme not in known:
        raise UnknownScheme(redacted_url(url), list(known))
    driver: Driver = _load(scheme, known[scheme])(url)
    return driver


def resolver_of(url: str) -> Resolve:
    """Return the rule for the addresses of the scheme of ``url``: its own, or ``by_path``.

    Raises DriverNotInstalled if the library of the driver is missing.
    """
    scheme = urlsplit(url).scheme
    known = _known(RESOLVE_GROUP, _BUILT_IN_RESOLVE)
    if scheme not in known:
        return by_path
    resolve: Resolve = _load(scheme, known[scheme])
    return resolve


@asynccontextmanager
async def provision(url: str, topic: str, subscriptions: Sequence[str] = ()) -> AsyncIterator[None]:
    """Create a topic and its subscriptions for tests and development, and remove them after.

    Does nothing if the driver registers no ``provision(url, topic, subscriptions)`` in the group
    ``gizmopy.pubsub.provision``: its broker creates them when they are first used.
    """
    scheme = urlsplit(url).scheme
    known = _known(PROVISION_GROUP, _BUILT_IN_PROVISION)
    if scheme not in known:
        yield
        return
    async with _load(scheme, known[scheme])(url, topic, subscriptions):
        yield


def has_provision(url: str) -> bool:
    """Return whether the driver of ``url`` has a ``provision``: topics must exist before use."""
    return urlsplit(url).scheme in _known(PROVISION_GROUP, _BUILT_IN_PROVISION)


def _known(group: str, built_in: dict[str, str]) -> dict[str, str]:
    points = [point for point in entry_points(group=group) if point.group == group]
    return {point.name: point.value for point in points} | built_in


def _load(scheme: str, target: str) -> Any:
    """Import ``module:function`` and return the function."""
    module, _, function = target.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in ("", module.partition(".")[0]):
            raise  # the driver itself is missing, not a library that it needs
        raise DriverNotInstalled(scheme, missing) from error
