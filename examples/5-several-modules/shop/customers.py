"""Customers: endpoints of an object of its own, as a table."""

from __future__ import annotations

from gizmopy import Problem
from gizmopy.web import EndpointTable


class Customers:
    """Stores customers. It is not a service, so a test needs no daemon."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def endpoints(self) -> EndpointTable:
        """Return the endpoints: path, method, and the function that answers."""
        return {
            "/customers": {"GET": self.list_customers},
            "/customers/{id}": {"GET": self.get_customer, "PUT": self.put_customer},
        }

    async def list_customers(self) -> list[str]:
        """Return the ids of all customers."""
        return sorted(self.names)

    async def get_customer(self, id: str) -> dict[str, str]:
        """Return a customer."""
        if id not in self.names:
            raise Problem(404, f"There is no customer {id!r}.")
        return {"id": id, "name": self.names[id]}

    async def put_customer(self, id: str, customer: dict[str, str]) -> None:
        """Store a customer."""
        self.names[id] = customer["name"]
