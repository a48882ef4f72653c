"""Count the views of pages beside the requests, and report them periodically.

gizmopy run views:Views
"""

import asyncio
from collections import Counter

from gizmopy import Problem, Service, Settings, background, every, get


class Views(Service):
    """Serves pages, and publishes how often each was viewed."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.viewed: asyncio.Queue[str] = asyncio.Queue(1000)
        self.counts = Counter[str]()

    @get("/pages/{name}")
    async def get_page(self, name: str) -> str:
        """Return a page; counting it does not delay the response."""
        if self.viewed.full():
            raise Problem(503, "Too many views wait to be counted.")
        self.viewed.put_nowait(name)
        return f"This is {name}."

    @background
    async def count(self) -> None:
        """Count views until the daemon drains, and then those that wait."""
        try:
            while True:
                # In two steps: report may replace the counts during the wait.
                name = await self.viewed.get()
                self.counts[name] += 1
        finally:
            while not self.viewed.empty():
                self.counts[self.viewed.get_nowait()] += 1
            await self.report()

    @every("10s", timeout="5s")
    async def report(self) -> None:
        """Publish the counts since the last report."""
        counts, self.counts = self.counts, Counter()
        if counts:
            await self.publish("views", dict(counts))
