"""Customers: endpoints."""

from __future__ import annotations

from typing import ClassVar

from gizmopy import Endpoints, Problem, get, put
from shop.store import Customer, Store, Unknown


class Customers(Endpoints):
    """Store customers."""

    prefix = "/customers"
    tags = ("customers",)
    problems: ClassVar = {Unknown: lambda error: Problem(404, f"There is no customer {error}.")}

    def __init__(self, store: Store) -> None:
        self.store = store

    @get("")
    async def list_customers(self) -> list[Customer]:
        """Return all customers."""
        return list(self.store.customers.values())

    @get("/{id}", problems=(404,))
    async def get_customer(self, id: str) -> Customer:
        """Return a customer."""
        return self.store.customer(id)

    @put("/{id}")
    async def put_customer(self, id: str, name: str) -> Customer:
        """Store a customer."""
        customer = self.store.customers[id] = Customer(id=id, name=name)
        return customer
