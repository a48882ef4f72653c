"""Orders: endpoints that publish."""

from __future__ import annotations

from typing import ClassVar, Literal

from gizmopy import Endpoints, Problem, get, post
from shop.store import Order, Store


class Orders(Endpoints):
    """Accept orders, and publish them."""

    prefix = "/orders"
    tags = ("orders",)
    publishes: ClassVar = {"orders": Order}

    def __init__(self, store: Store) -> None:
        self.store = store

    @post("")
    async def create_order(self, order: Order) -> tuple[Literal[201], Order]:
        """Store an order, and publish it."""
        if order.id in self.store.orders:
            raise Problem(409, f"There is an order {order.id} already.")
        self.store.orders[order.id] = order
        await self.publish("orders", order, key=order.item)
        return 201, order

    @get("/{id}")
    async def get_order(self, id: int) -> Order:
        """Return an order."""
        if id not in self.store.orders:
            raise Problem(404, f"There is no order {id}.")
        return self.store.orders[id]
