"""The time that a scrape blocks the event loop of a busy daemon, beside prometheus_client.

    python -m benchmarks.scrape

A daemon with 600 histograms works without a pause while it is scraped. The figure is the worst
lateness of a tick of its loop: the median of 30 scrapes, and the maximum. Other processes delay
ticks, too; the first row, without a scrape, shows by how much.
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

from gizmopy.observe.exposition import Exposition
from gizmopy.observe.metrics import HistogramChild, Metrics

HISTOGRAMS = 600
SCRAPES = 30
BETWEEN_SECONDS = 0.05
TICK_SECONDS = 0.001
REQUEST_SECONDS = 100e-6
TARGET_SECONDS = 0.005

Scrape = Callable[[], Awaitable[object]]


def _daemon() -> tuple[Metrics, list[HistogramChild]]:
    metrics = Metrics()
    durations = metrics.histogram(
        "http_server_request_duration_seconds",
        "Time to answer a request.",
        ("http_request_method", "http_route", "http_response_status_code"),
    )
    children = [durations.child("GET", f"/cats/{n}/{{id}}", "200") for n in range(HISTOGRAMS)]
    return metrics, children


async def _serve(children: list[HistogramChild]) -> None:
    """Simulate requests, one after the other, each of which occupies the loop."""
    for number in count():
        started = perf_counter()
        while perf_counter() - started < REQUEST_SECONDS:
            pass
        children[number % len(children)].observe(REQUEST_SECONDS)
        await asyncio.sleep(0)


async def _tick(lateness: list[float]) -> None:
    while True:
        due = perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lateness.append(perf_counter() - due)


async def _measure(children: list[HistogramChild], scrape: Scrape) -> tuple[float, float, float]:
    """Return the median and the maximum of the worst lateness, and the mean seconds of a scrape."""
    lateness: list[float] = []
    worst: list[float] = []
    took = 0.0
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(_serve(children)), group.create_task(_tick(lateness))]
        for _ in range(SCRAPES):
            await asyncio.sleep(BETWEEN_SECONDS)
            lateness.clear()
            started = perf_counter()
            await scrape()
            took += perf_counter() - started
            await asyncio.sleep(2 * TICK_SECONDS)  # the tick that was due meanwhile
            worst.append(max(lateness))
        for task in background:
            task.cancel()
    return median(worst), max(worst), took / SCRAPES


async def main() -> None:
    """Measure each way to scrape, and print a table."""
    metrics, children = _daemon()
    ticks = count()

    async def on_the_loop() -> bytes:
        return metrics.render()

    async with Exposition(
        metrics, clock=lambda: float(next(ticks) * 10)
    ) as exposition:  # never cached
        ways: dict[str, Scrape] = {
            "no scrape": partial(asyncio.sleep, 0.01),
            "gizmopy": exposition.render,
            "generate_latest in a thread": partial(asyncio.to_thread, metrics.render),
            "generate_latest on the loop": on_the_loop,
        }
        size = len(await exposition.render())
        print(f"{HISTOGRAMS} histograms, {size / 1e6:.2f} MB a scrape, {SCRAPES} scrapes each")
        print(f"{'':28} {'median':>11} {'maximum':>11} {'a scrape':>11}")
        gc.collect()
        gc.freeze()  # no measurement collects the garbage of the imports
        for name, scrape in ways.items():
            usual, worst, took = await _measure(children, scrape)
            print(f"{name:28} {usual * 1e3:8.1f} ms {worst * 1e3:8.1f} ms {took * 1e3:8.1f} ms")
    print(f"target: gizmopy blocks the loop for at most {TARGET_SECONDS * 1e3:g} ms")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
