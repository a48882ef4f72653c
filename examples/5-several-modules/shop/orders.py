"""Orders: endpoints and a message handler, as a mixin of the service."""

from __future__ import annotations

from pydantic import BaseModel

from gizmopy import Problem, Service, get, post, subscribe


class Order(BaseModel):
    """An order of a customer."""

    id: int
    customer: str


class OrderEndpoints(Service):
    """Accepts orders, and ships them when their message arrives.

    A mixin keeps its state under names that no other mixin uses, and so are its methods named.
    """

    orders: dict[int, Order]
    shipped: set[int]

    @post("/orders")
    async def create_order(self, order: Order) -> tuple[int, Order]:
        """Store an order, and publish it."""
        if order.id in self.orders:
            raise Problem(409, f"There is an order {order.id} already.")
        self.orders[order.id] = order
        await self.publish("orders", order, key=order.customer)
        return 201, order

    @get("/orders/{id}")
    async def get_order(self, id: int) -> Order:
        """Return an order."""
        if id not in self.orders:
            raise Problem(404, f"There is no order {id}.")
        return self.orders[id]

    @subscribe("orders", order="key")
    async def on_order(self, order: Order) -> None:
        """Ship an order."""
        self.shipped.add(order.id)
