"""Test the module of customers alone."""

import pytest
from shop.customers import Customers
from shop.store import Customer, Store, Unknown

import pubsubtest


async def test_an_unknown_customer_is_an_error() -> None:
    """A method is tested without a daemon."""
    with pytest.raises(Unknown):
        await Customers(Store({})).get_customer("tom")


async def test_an_unknown_customer_is_a_problem() -> None:
    """The table of the module says which one."""
    async with pubsubtest.serve(Customers(Store({}))) as customers:
        response = await customers.http.get("/customers/tom")
        assert (response.status, (await response.json())["detail"]) == (
            404,
            "There is no customer tom.",
        )


async def test_a_customer_is_stored() -> None:
    """The module is served without the service that mounts it."""
    async with pubsubtest.serve(Customers(Store({}))) as customers:
        response = await customers.http.put("/customers/tom?name=Tom")
        assert await response.json() == {"id": "tom", "name": "Tom"}
        assert customers.service.store.customers == {"tom": Customer(id="tom", name="Tom")}
        response = await customers.http.get("/customers")
        assert await response.json() == [{"id": "tom", "name": "Tom"}]
