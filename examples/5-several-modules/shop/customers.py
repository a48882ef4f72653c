"""Customers: endpoints."""

from __future__ import annotations

from gizmopy import Endpoints, Problem, get, put
from shop.store import Customer, Store


class Customers(Endpoints):
    """Store customers."""

    prefix = "/customers"
    tags = ("customers",)

    def __init__(self, store: Store) -> None:
        self.store = store

    @get("")
    async def list_customers(self) -> list[Customer]:
        """Return all customers."""
        return list(self.store.customers.values())

    @get("/{id}")
    async def get_customer(self, id: str) -> Customer:
        """Return a customer."""
        if id not in self.store.customers:
            raise Problem(404, f"There is no customer {id!r}.")
        return self.store.customers[id]

    @put("/{id}")
    async def put_customer(self, id: str, name: str) -> Customer:
        """Store a customer."""
        customer = self.store.customers[id] = Customer(id=id, name=name)
        return customer
