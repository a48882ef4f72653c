"""Open the drivers of a service: one for each URL, which all channels with that URL share."""

from __future__ import annotations

from collections.abc import Callable

from gizmopy.pubsub.destinations import Destination
from gizmopy.pubsub.driver import Driver
from gizmopy.pubsub.publishers import close_all


class SharedDrivers:
    """Open each driver on its first use, and close all of them at the end."""

    def __init__(self, open_driver: Callable[[str], Driver]) -> None:
        self._open_driver = open_driver
        self._by_url: dict[str, Driver] = {}

    def of(self, destination: Destination) -> Driver:
        """Return the driver of a destination. Raises a GizmoError if it cannot be opened."""
        url = destination.driver_url
        if url not in self._by_url:
            self._by_url[url] = self._open_driver(url)
        return self._by_url[url]

    async def aclose(self) -> None:
        """Close the drivers side by side."""
        await close_all(("a driver", driver.aclose()) for driver in self._by_url.values())
