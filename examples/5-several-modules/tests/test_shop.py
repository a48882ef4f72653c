"""Test the whole daemon."""

from shop.service import Shop, ShopSettings

import pubsubtest


async def test_an_order_reduces_the_stock() -> None:
    """One module publishes, and another one handles the message."""
    async with pubsubtest.serve(Shop, settings=ShopSettings(stock={"apple": 1})) as shop:
        for number in (1, 2):
            order = {"id": number, "customer": "tom", "item": "apple"}
            assert (await shop.http.post("/v1/orders", json=order)).status == 201
        await shop.idle()
        assert shop.service.store.stock == {"apple": 0}
        assert len(shop.published("orders.refused")) == 1


async def test_the_staff_endpoints_are_the_only_ones_with_a_key() -> None:
    """The security of a module is for its own endpoints, the middleware of the service for all."""
    async with pubsubtest.serve(Shop) as shop:
        assert (await shop.http.get("/v1/stock/apple")).status == 401
        response = await shop.http.get("/v1/customers")
        assert response.status == 200
        assert "no-cache" in response.headers["Cache-Control"]


async def test_the_store_is_checked() -> None:
    """A health check of a module is one of the service."""
    async with pubsubtest.serve(Shop) as shop:
        assert (await shop.http.get("/readyz/store_is_open")).status == 200
