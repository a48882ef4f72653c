"""Orders: endpoints that publish."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from gizmopy import Endpoints, Header, get, post
from shop.store import Duplicate, Order, Store, Unknown

Location = Annotated[str, Header("Location")]


class Orders(Endpoints):
    """Accept orders, and publish them."""

    prefix = "/orders"
    tags = ("orders",)
    publishes: ClassVar = {"orders": Order}
    problems: ClassVar = {Unknown: 404, Duplicate: 409}

    def __init__(self, store: Store) -> None:
        self.store = store

    @post("", problems=(Duplicate,))
    async def create_order(self, order: Order) -> tuple[Literal[201], Order, Location]:
        """Store an order, and publish it."""
        self.store.add(order)
        await self.publish("orders", order, key=order.item)
        return 201, order, f"orders/{order.id}"

    @get("/{id}", problems=(Unknown,))
    async def get_order(self, id: int) -> Order:
        """Return an order."""
        return self.store.order(id)
