"""Decide who may look into the daemon: what is not for strangers is off where they could ask."""

from __future__ import annotations

from gizmopy.config import Settings
from gizmopy.server.listening import UNIX, is_loopback


def debug_served(settings: Settings) -> bool:
    """Return whether ``/debug/`` is served: as told, else with a token or on loopback only.

    A unix socket is not loopback: what stands in front of it is most often a proxy.
    """
    if settings.debug is not None:
        return settings.debug
    return bool(settings.debug_token.get_secret_value()) or on_loopback(settings)


def on_loopback(settings: Settings) -> bool:
    """Whether what ``/debug/`` is served on is a port of this machine only."""
    address = settings.http_addr if settings.admin_port is None else settings.admin_addr
    return is_loopback(address) and not address.startswith(UNIX)
