"""The health check of publishers."""

from __future__ import annotations

import asyncio

import pubsubtest
from gizmopy import Service, put
from pubsubtest.faults import Faults


class Teller(Service):
    @put("/tell")
    async def tell(self) -> None:
        await self.publish("cats", "Tom")


async def _readiness(teller: pubsubtest.Served[Teller]) -> tuple[int, str]:
    async with teller.http.get("/readyz?verbose") as response:
        return response.status, await response.text()


async def test_a_broker_that_accepts_no_messages_fails_the_check_but_not_readiness() -> None:
    """The check fails while sending fails, and passes with the next message sent."""
    faults = Faults()
    async with pubsubtest.serve(Teller, faults=faults) as teller:
        async with teller.http.put("/tell") as response:
            assert response.status == 204
        assert "[+]publishers ok" in (await _readiness(teller))[1]
        async with faults.outage():
            telling = asyncio.create_task(teller.http.put("/tell"))
            async with asyncio.timeout(10):
                while not teller.server.channels.unpublished():  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0)
            status, text = await _readiness(teller)
            assert status == 200
            assert "[-]publishers failed (not critical)" in text
        async with await telling as response:
            await response.read()
        async with teller.http.put("/tell") as response:
            assert response.status == 204
        assert "[+]publishers ok" in (await _readiness(teller))[1]
