"""Prices as a stream of events, as a download, and the page that shows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic import BaseModel

from gizmopy import Event, EventStream, FileResponse, LastEventID, Service, Settings, get, put


class Price(BaseModel):
    """The price of one share."""

    share: str
    cents: int


class Prices(Service):
    """Keeps prices, and tells every browser about each change."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.changes: list[Price] = []
        self._changed = asyncio.Condition()

    @put("/prices/{share}")
    async def put_price(self, share: str, cents: int) -> None:
        """Change a price."""
        async with self._changed:
            self.changes.append(Price(share=share, cents=cents))
            self._changed.notify_all()

    @get("/events")
    async def events(self, last: LastEventID = None) -> EventStream[Price]:
        """Send each change; a browser that was away gets those that it missed."""
        number = int(last) + 1 if last and last.isdecimal() else len(self.changes)
        while True:
            async with self._changed:
                while number >= len(self.changes):
                    await self._changed.wait()
            yield Event(self.changes[number], id=number)
            number += 1

    @get("/changes")
    async def all_changes(self) -> AsyncIterator[Price]:
        """Send all changes so far, a line of JSON for each."""
        for price in list(self.changes):
            yield price

    @get("/changes.csv", media_type="text/csv")
    async def csv(self) -> AsyncIterator[str]:
        """Send all changes so far as a table."""
        yield "share,cents\n"
        for price in list(self.changes):
            yield f"{price.share},{price.cents}\n"

    @get("/")
    async def page(self) -> FileResponse:
        """Send the page."""
        return FileResponse(Path(__file__).with_name("page.html"))


if __name__ == "__main__":
    Prices.run()
