"""The service that joins the modules.

gizmopy routes shop.service:Shop
gizmopy run shop.service:Shop
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from pydantic import Field, SecretStr

from gizmopy import Endpoints, Service, Settings
from gizmopy.web import no_cache
from shop.customers import Customers
from shop.orders import Orders
from shop.stock import Stock
from shop.store import Store


class ShopSettings(Settings):
    """The settings of the shop."""

    staff_key: SecretStr = SecretStr("")
    """The key of the staff; without one, the endpoints for the staff answer 401."""
    stock: dict[str, int] = Field(default_factory=lambda: {"apple": 2})
    """How many pieces of each item there are."""


class Shop(Service):
    """Sells things."""

    settings: ShopSettings
    prefix = "/v1"
    middleware = (no_cache,)

    def __init__(self, settings: ShopSettings | None = None) -> None:
        super().__init__(settings)
        self.store = Store(dict(self.settings.stock))

    def mounts(self) -> Iterable[Endpoints]:
        """Return the modules, each with what it needs."""
        yield Customers(self.store)
        yield Orders(self.store)
        yield Stock(self.store, self.settings.staff_key)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the store while the service works."""
        async with self.store:
            yield
