"""The endpoints that every daemon has: probes for whoever runs it, and metrics.

A service's own route beats a built-in one of the same path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from gizmopy.config import Settings
from gizmopy.observe.metrics import CONTENT_TYPE, Metrics
from gizmopy.server.health import Health
from gizmopy.web import Handler


class Scraper:
    """Render metrics in a thread of its own, one scrape at a time.

    Formatting hundreds of histograms takes longer than a request may wait for the loop.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(1, "gizmopy-scrape")

    async def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._metrics.render)

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()


def builtin_endpoints(
    name: str, settings: Settings, health: Health, scraper: Scraper
) -> Iterator[tuple[str, Handler]]:
    """Yield the path and handler of each built-in endpoint; all of them answer GET."""

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        problems = await health.problems()
        status = 503 if problems else 200
        text = f"not ready: {', '.join(problems)}\n" if problems else "ok\n"
        if "verbose" in request.query:
            text = "".join(f"{name}: {state}\n" for name, state in await health.report()) + text
        return web.Response(status=status, text=text)

    async def status_txt(request: web.Request) -> web.Response:
        if await health.problems():
            return web.Response(status=503, text="service unavailable")
        return web.Response(text=f"ok-{name}")

    async def scrape(request: web.Request) -> web.Response:
        return web.Response(body=await scraper.render(), headers={"Content-Type": CONTENT_TYPE})

    yield "/livez", livez
    yield "/readyz", readyz
    yield settings.health_check_path, status_txt
    yield settings.metrics_path, scrape
