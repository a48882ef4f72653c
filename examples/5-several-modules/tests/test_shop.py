"""Test the shop: objects alone, and the whole daemon."""

import pytest
from shop.customers import Customers
from shop.service import Shop

import pubsubtest
from gizmopy import Problem


async def test_an_unknown_customer_is_a_problem() -> None:
    """An object is tested without a daemon."""
    with pytest.raises(Problem, match="no customer"):
        await Customers().get_customer("tom")


async def test_a_customer_is_stored() -> None:
    """The endpoints of a table have the prefix of the service, and bound parameters."""
    async with pubsubtest.serve(Shop) as shop:
        response = await shop.http.put("/v1/customers/tom", json={"name": "Tom"})
        assert response.status == 204
        response = await shop.http.get("/v1/customers/tom")
        assert await response.json() == {"id": "tom", "name": "Tom"}


async def test_an_order_is_shipped() -> None:
    """The endpoint publishes, and the handler of the same daemon ships."""
    async with pubsubtest.serve(Shop) as shop:
        response = await shop.http.post("/v1/orders", json={"id": 1, "customer": "tom"})
        assert response.status == 201
        await shop.idle()
        assert shop.service.shipped == {1}
