"""The stock: a message handler, a health check, and endpoints for the staff only."""

from __future__ import annotations

import hmac

from aiohttp import web
from pydantic import SecretStr

from gizmopy import Endpoints, Problem, Reject, get, health_check, subscribe
from gizmopy.pubsub.middleware import timeout
from gizmopy.web import Handler, HTTPMiddleware
from shop.store import Order, Store


def staff_only(key: SecretStr) -> HTTPMiddleware:
    """Return a middleware that answers 401 to a request without the key of the staff."""

    expected = key.get_secret_value().encode()

    def wrap(handler: Handler) -> Handler:
        async def check(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("X-API-Key", "").encode(errors="surrogateescape")
            if not (expected and hmac.compare_digest(given, expected)):
                raise Problem(401, "This endpoint is for the staff.")
            return await handler(request)

        return check

    return wrap


class Stock(Endpoints):
    """Take ordered items out of the stock."""

    prefix = "/stock"
    tags = ("stock", "staff")
    message_middleware = (timeout(5),)

    def __init__(self, store: Store, staff_key: SecretStr) -> None:
        self.store = store
        self.middleware = (staff_only(staff_key),)

    @get("/{item}")
    async def get_stock(self, item: str) -> int:
        """Return how many pieces there are."""
        return self.store.stock.get(item, 0)

    @subscribe("orders", order="key", dead_letter="orders.refused")
    async def on_order(self, order: Order) -> None:
        """Take one piece out of the stock."""
        if not self.store.stock.get(order.item):
            raise Reject(f"{order.item} is sold out")
        self.store.stock[order.item] -= 1

    @health_check
    async def store_is_open(self) -> None:
        """Fail while the store is closed."""
        if not self.store.is_open:
            raise ConnectionError("the store is closed")
