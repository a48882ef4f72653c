"""The store: a resource that the service opens, and the other modules use."""

from __future__ import annotations

from types import TracebackType

from pydantic import BaseModel


class Customer(BaseModel):
    """A customer."""

    id: str
    name: str


class Order(BaseModel):
    """An order of a customer."""

    id: int
    customer: str
    item: str


class Unknown(LookupError):
    """There is no such customer or order."""


class Duplicate(Exception):
    """There is an order with this number already."""


class Store:
    """Keep everything in memory; a real one has a pool of connections to a database."""

    def __init__(self, stock: dict[str, int]) -> None:
        self.is_open = False
        self.customers: dict[str, Customer] = {}
        self.orders: dict[int, Order] = {}
        self.stock = stock

    def customer(self, id: str) -> Customer:
        """Return a customer. Raises Unknown."""
        if id not in self.customers:
            raise Unknown(id)
        return self.customers[id]

    def order(self, id: int) -> Order:
        """Return an order. Raises Unknown."""
        if id not in self.orders:
            raise Unknown(id)
        return self.orders[id]

    def add(self, order: Order) -> None:
        """Store an order. Raises Duplicate."""
        if order.id in self.orders:
            raise Duplicate(order.id)
        self.orders[order.id] = order

    async def __aenter__(self) -> Store:
        self.is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_open = False
