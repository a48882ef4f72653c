"""The stock: a message handler, a health check, and endpoints for the staff only."""

from __future__ import annotations

from pydantic import SecretStr

from gizmopy import (
    Caller,
    Endpoints,
    Reject,
    api_key,
    get,
    health_check,
    http_basic,
    put,
    subscribe,
)
from gizmopy.pubsub.middleware import timeout
from gizmopy.web import same_secret
from shop.store import Order, Store


class Stock(Endpoints):
    """Take ordered items out of the stock."""

    prefix = "/stock"
    tags = ("stock", "staff")
    message_middleware = (timeout(5),)

    def __init__(self, store: Store, staff_key: SecretStr) -> None:
        self.store = store
        self.staff_key = staff_key

    @api_key(header="X-API-Key")
    def staff(self, key: str) -> str | None:
        """The key of the staff."""
        return "staff" if same_secret(key, self.staff_key) else None

    @http_basic
    def clerk(self, username: str, password: str) -> str | None:
        """Any user name, with the key of the staff as the password."""
        return username if same_secret(password, self.staff_key) else None

    security = (staff, clerk)

    @get("/{item}")
    async def get_stock(self, item: str) -> int:
        """Return how many pieces there are."""
        return self.store.stock.get(item, 0)

    @put("/{item}")
    async def put_stock(self, item: str, pieces: int, caller: Caller[str]) -> dict[str, str | int]:
        """Store how many pieces there are, and return who did it."""
        self.store.stock[item] = pieces
        return {"item": item, "pieces": pieces, "by": caller}

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
