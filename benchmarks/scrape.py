"""How long a scrape holds the event loop of a busy daemon, beside prometheus_client's own way.

A daemon with 600 histograms answers work without a pause while it is scraped; what counts is how
late a tick of its loop is at worst: usually (the median of 30 scrapes), and of all. What another
process takes from this one counts too, so the first row is the floor. Run it as
``python -m benchmarks.scrape``.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from statistics import median
from time import perf_counter

import uvloop

from gizmopy.observe.exposition import Scraper
from gizmopy.observe.metrics import HistogramCell, Metrics

HISTOGRAMS = 600
SCRAPES = 30
BETWEEN_SECONDS = 0.05
TICK_SECONDS = 0.001
REQUEST_SECONDS = 100e-6
TARGET_SECONDS = 0.005

Scrape = Callable[[], Awaitable[object]]


def _daemon() -> tuple[Metrics, list[HistogramCell]]:
    metrics = Metrics()
    durations = metrics.histogram(
        "http_server_request_duration_seconds",
        "Time to answer a request.",
        ("http_request_method", "http_route", "http_response_status_code"),
    )
    cells = [durations.cell("GET", f"/cats/{n}/{{id}}", "200") for n in range(HISTOGRAMS)]
    return metrics, cells


async def _serve(cells: list[HistogramCell]) -> None:
    """Answer one request after the other, each of which keeps the loop as a real one does."""
    for number in count():
        began = perf_counter()
        while perf_counter() - began < REQUEST_SECONDS:
            pass
        cells[number % len(cells)].observe(REQUEST_SECONDS)
        await asyncio.sleep(0)


async def _tick(lateness: list[float]) -> None:
    while True:
        due = perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lateness.append(perf_counter() - due)


async def _measure(cells: list[HistogramCell], scrape: Scrape) -> tuple[float, float, float]:
    """Return the worst lateness of a usual scrape and of all, and a scrape's mean seconds."""
    lateness: list[float] = []
    worst: list[float] = []
    took = 0.0
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(_serve(cells)), group.create_task(_tick(lateness))]
        for _ in range(SCRAPES):
            await asyncio.sleep(BETWEEN_SECONDS)
            lateness.clear()
            began = perf_counter()
            await scrape()
            took += perf_counter() - began
            await asyncio.sleep(2 * TICK_SECONDS)  # the tick that was due meanwhile
            worst.append(max(lateness))
        for task in background:
            task.cancel()
    return median(worst), max(worst), took / SCRAPES


async def main() -> None:
    """Measure each way to scrape, and print a table."""
    metrics, cells = _daemon()
    ticks = count()

    async def on_the_loop() -> bytes:
        return metrics.render()

    async with Scraper(metrics, clock=lambda: float(next(ticks) * 10)) as scraper:  # never cached
        ways: dict[str, Scrape] = {
            "no scrape": partial(asyncio.sleep, 0.01),
            "gizmopy": scraper.render,
            "generate_latest in a thread": partial(asyncio.to_thread, metrics.render),
            "generate_latest on the loop": on_the_loop,
        }
        size = len(await scraper.render())
        print(f"{HISTOGRAMS} histograms, {size / 1e6:.2f} MB a scrape, {SCRAPES} scrapes each")
        print(f"{'':28} {'usual hold':>11} {'worst hold':>11} {'a scrape':>11}")
        gc.collect()
        gc.freeze()  # what the imports left behind is not collected by any of them
        for name, scrape in ways.items():
            usual, worst, took = await _measure(cells, scrape)
            print(f"{name:28} {usual * 1e3:8.1f} ms {worst * 1e3:8.1f} ms {took * 1e3:8.1f} ms")
    print(f"target: the loop is held for at most {TARGET_SECONDS * 1e3:g} ms by gizmopy")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
