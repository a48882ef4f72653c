"""The health check of publishers."""

from __future__ import annotations

import asyncio

import pubsubtest
from gizmopy import Service, put
from pubsubtest.faults import Faults


class CatPublisher(Service):
    @put("/publish")
    async def publish_cat(self) -> None:
        await self.publish("cats", "Tom")


async def _readiness(served: pubsubtest.Served[CatPublisher]) -> tuple[int, str]:
    async with served.http.get("/readyz?verbose") as response:
        return response.status, await response.text()


async def test_a_broker_that_accepts_no_messages_fails_the_check_but_not_readiness() -> None:
    """The check fails while sending fails, and passes with the next message sent."""
    faults = Faults()
    async with pubsubtest.serve(CatPublisher, faults=faults) as served:
        async with served.http.put("/publish") as response:
            assert response.status == 204
        assert "[+]publishers ok" in (await _readiness(served))[1]
        async with faults.outage():
            publishing = asyncio.create_task(served.http.put("/publish"))
            async with asyncio.timeout(10):
                while not served.server.channels.unpublished():  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0)
            status, text = await _readiness(served)
            assert status == 200
            assert "[-]publishers failed (not critical)" in text
        async with await publishing as response:
            await response.read()
        async with served.http.put("/publish") as response:
            assert response.status == 204
        assert "[+]publishers ok" in (await _readiness(served))[1]
