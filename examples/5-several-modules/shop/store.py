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


class Store:
    """Keep everything in memory; a real one has a pool of connections to a database."""

    def __init__(self, stock: dict[str, int]) -> None:
        self.is_open = False
        self.customers: dict[str, Customer] = {}
        self.orders: dict[int, Order] = {}
        self.stock = stock

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
