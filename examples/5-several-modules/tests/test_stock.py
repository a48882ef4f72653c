"""Test the module of the stock alone."""

from base64 import b64encode

from pydantic import SecretStr
from shop.stock import Stock
from shop.store import Order, Store

import pubsubtest


async def test_an_order_is_taken_out_of_the_stock() -> None:
    """A handler is tested without a daemon, too."""
    stock = Stock(Store({"apple": 1}), SecretStr("key"))
    order = Order(id=1, customer="tom", item="apple")
    outcomes = await pubsubtest.FakeSubscriber(stock.on_order).run([order, order])
    assert outcomes == ["ack", "dead_letter"]
    assert stock.store.stock == {"apple": 0}


async def test_the_stock_is_for_the_staff() -> None:
    """The checkers of the module are tested with it."""
    async with pubsubtest.serve(Stock(Store({"apple": 1}), SecretStr("key"))) as stock:
        assert (await stock.http.get("/stock/apple")).status == 401
        response = await stock.http.get("/stock/apple", headers={"X-API-Key": "key"})
        assert await response.json() == 1


async def test_a_clerk_stores_the_stock() -> None:
    """The endpoint knows who called it."""
    async with pubsubtest.serve(Stock(Store({}), SecretStr("key"))) as stock:
        ann = {"Authorization": f"Basic {b64encode(b'ann:key').decode()}"}
        response = await stock.http.put("/stock/pear?pieces=3", headers=ann)
        assert await response.json() == {"item": "pear", "pieces": 3, "by": "ann"}
        assert stock.service.store.stock == {"pear": 3}
