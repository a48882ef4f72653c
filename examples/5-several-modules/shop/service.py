"""The service that joins the modules.

gizmopy routes shop.service:Shop
gizmopy run shop.service:Shop
"""

from __future__ import annotations

from gizmopy import Service, Settings
from gizmopy.web import EndpointTable
from shop.customers import Customers
from shop.orders import OrderEndpoints


class Shop(OrderEndpoints, Service):
    """Sells things."""

    prefix = "/v1"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.orders = {}
        self.shipped = set()
        self.customers = Customers()

    def endpoints(self) -> EndpointTable:
        """Return the tables of the objects that this service holds."""
        return {**self.customers.endpoints()}
