"""Test the module of customers alone."""

import pytest
from shop.customers import Customers
from shop.store import Customer, Store

import pubsubtest
from gizmopy import Problem


async def test_an_unknown_customer_is_a_problem() -> None:
    """A method is tested without a daemon."""
    with pytest.raises(Problem, match="no customer"):
        await Customers(Store({})).get_customer("tom")


async def test_a_customer_is_stored() -> None:
    """The module is served without the service that mounts it."""
    async with pubsubtest.serve(Customers(Store({}))) as customers:
        response = await customers.http.put("/customers/tom?name=Tom")
        assert await response.json() == {"id": "tom", "name": "Tom"}
        assert customers.service.store.customers == {"tom": Customer(id="tom", name="Tom")}
        response = await customers.http.get("/customers")
        assert await response.json() == [{"id": "tom", "name": "Tom"}]
