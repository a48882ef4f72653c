"""Test the module of orders alone."""

from shop.orders import Orders
from shop.store import Order, Store

import pubsubtest

APPLE = {"id": 1, "customer": "tom", "item": "apple"}


async def test_an_order_is_published() -> None:
    """An endpoint of a mounted object publishes through the service."""
    async with pubsubtest.serve(Orders(Store({}))) as orders:
        response = await orders.http.post("/orders", json=APPLE)
        assert (response.status, response.headers["Location"]) == (201, "orders/1")
        (message,) = orders.published("orders")
        assert message.key == "apple"
        assert message.value(Order) == Order.model_validate(APPLE)
        assert (await orders.http.post("/orders", json=APPLE)).status == 409
        assert await (await orders.http.get("/orders/1")).json() == APPLE
