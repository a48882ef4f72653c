"""Find the driver for a broker's URL by its scheme, and import it only then."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from gizmopy.errors import DriverNotInstalled, UnknownScheme
from gizmopy.pubsub.driver import Driver

GROUP = "gizmopy.pubsub"
"""The entry-point group in which third parties register: ``nats = gizmo_nats:open_driver``."""

_BUILT_IN = {"memory": "gizmopy.pubsub.memory:open_driver"}


def open_driver(url: str) -> Driver:
    """Return a new driver for ``url``; it does not connect yet.

    Raises UnknownScheme where no driver is registered for the scheme, and DriverNotInstalled
    where the driver's library is missing.
    """
    scheme = urlsplit(url).scheme
    known = {point.name: point.value for point in entry_points(group=GROUP)} | _BUILT_IN
    if scheme not in known:
        raise UnknownScheme(redact(url), list(known))
    driver: Driver = _load(scheme, known[scheme])(url)
    return driver


def _load(scheme: str, target: str) -> Any:
    """Import ``module:function`` and return the function."""
    module, _, function = target.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in ("", module.partition(".")[0]):
            raise  # the driver itself is at fault, not what it needs
        raise DriverNotInstalled(scheme, missing) from error


def redact(url: str) -> str:
    """Return ``url`` without its password and without its query, to be shown."""
    parts = urlsplit(url)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    secret = ":***" if colon else ""
    return parts._replace(netloc=f"{user}{secret}{at}{hosts}", query="", fragment="").geturl()
