"""Render the metrics for a scrape without blocking the event loop.

prometheus_client renders all metrics in one call: 600 histograms block the event loop for a third
of a second, and in a thread they compete with it for the GIL. Here our own instruments are rendered
on the loop, a millisecond at a time, and the constant parts of their text are kept between scrapes.
Other collectors, which may take any time, are rendered in a thread.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from threading import Thread
from time import perf_counter

from gizmopy._aio import cancel_and_wait
from gizmopy.observe.collectors import Registered, Rendered, asked_for, render_each
from gizmopy.observe.exposition_text import Family
from gizmopy.observe.metrics import Metrics
from gizmopy.observe.scrapes import Format, Scrape

_SLICE_SECONDS = 0.001
"""The time that the event loop or the collectors' thread runs before the other one does."""
_PAUSE_SECONDS = 0.01
_FRESH_SECONDS = 1.0
_CHEAP_SECONDS = 0.05
"""A run that is faster than this is repeated for every scrape."""
_COLLECTOR_SECONDS = 5.0
"""The timeout of other collectors: Prometheus itself gives up after 10 s."""

_EVERYTHING = Scrape()
_NAME = "gizmopy-scrape"
_CHUNK = 16 * 1024
"""The bytes that are compressed at once: half a millisecond."""


class _Run:
    """A run that all scrapes of one format share."""

    def __init__(self) -> None:
        self.task: asyncio.Task[bytes] | None = None
        self.started_at = 0.0
        self.seconds = 0.0


class Exposition:
    """Render ``metrics``, in one run at a time that serves all scrapes which arrive meanwhile.

    If a run took longer than ``cheap`` seconds, its text also serves the scrapes of the next
    second.

    Use it as an async context manager; leaving it cancels a run. A collector of prometheus_client
    that raises, or takes longer than ``timeout`` seconds, is left out and counted in
    ``gizmo_metrics_failures_total``. ``clock`` returns seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = _COLLECTOR_SECONDS,
        cheap: float = _CHEAP_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._timeout = timeout
        self._cheap = cheap
        self._families: dict[str, Family] = {}
        self._runs: dict[Format, _Run] = {}
        self._rendering: Future[Rendered] | None = None
        self._asked = _EVERYTHING
        """The scrape that ``_rendering`` is for."""
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Exposition:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await cancel_and_wait([run.task for run in self._runs.values() if run.task is not None])

    async def render(self, scrape: Scrape = _EVERYTHING) -> bytes:
        """Return the metrics that ``scrape`` asks for; no value is much older than 1 s."""
        if scrape.names:
            # Not shared: a client could ask for ever new names, and each run would be kept.
            return await self._render(scrape)
        shared = self._runs.setdefault(scrape.format, _Run())
        if shared.task is None or (shared.task.done() and not self._is_fresh(shared)):
            shared.started_at = self._clock()
            shared.task = asyncio.create_task(self._render_shared(shared, scrape), name=_NAME)
        # A scrape whose client disconnects is cancelled; other scrapes wait for the same run.
        return await asyncio.shield(shared.task)

    def _is_fresh(self, shared: _Run) -> bool:
        age = self._clock() - shared.started_at
        return shared.seconds > self._cheap and age < _FRESH_SECONDS

    async def _render_shared(self, shared: _Run, scrape: Scrape) -> bytes:
        started_at = perf_counter()
        text = await self._render(scrape)
        shared.seconds = perf_counter() - started_at
        return text

    async def _render(self, scrape: Scrape) -> bytes:
        others = await self._render_others(scrape)
        self._metrics.refresh()
        texts = []
        pause_at = 0.0  # a pause after the first text, because refresh() has taken time already
        for text in self._texts(scrape):
            texts.append(text)
            if perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = perf_counter() + _SLICE_SECONDS
        end = b"# EOF\n" if scrape.format == "openmetrics" else b""
        return b"".join((*texts, others, end))

    def _texts(self, scrape: Scrape) -> Iterator[bytes]:
        for family in self._all_families():
            if scrape.takes(family.names):
                yield from family.texts(scrape)

    def _all_families(self) -> Iterator[Family]:
        for instrument in self._metrics.instruments():
            family = self._families.get(instrument.name)
            if family is None:
                family = self._families[instrument.name] = Family(instrument)
            yield family

    async def _render_others(self, scrape: Scrape) -> bytes:
        """Return the text of other collectors, or nothing if they take too long.

        If they do, the next scrape waits for the same thread again: there is never more than one.
        A result that was ready in between is not used, because its values are old by then.
        """
        collectors = asked_for(self._metrics.registries(), scrape, without=self._metrics)
        if not collectors:
            return b""
        try:
            # One at a time, because each waits by blocking the loop for a tenth of the time.
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError:
            return self._late()
        try:
            return await self._render_in_thread(collectors, scrape)
        finally:
            self._turn.release()

    async def _render_in_thread(self, collectors: list[Registered], scrape: Scrape) -> bytes:
        deadline = perf_counter() + self._timeout
        rendering = self._rendering
        if rendering is not None and not rendering.done():
            if not await self._is_done(rendering, deadline):
                return self._late()
            if self._asked == scrape:
                return self._result(rendering)
        taken = {name for family in self._all_families() for name in family.names}
        self._asked = scrape
        rendering = self._rendering = _in_thread(partial(render_each, collectors, scrape, taken))
        if not await self._is_done(rendering, deadline):
            return self._late()
        return self._result(rendering)

    def _late(self) -> bytes:
        late = TimeoutError(f"collectors take longer than {self._timeout:g} s")
        self._metrics.count_failure("collectors", late)
        return b""

    def _result(self, rendering: Future[Rendered]) -> bytes:
        text, failures = rendering.result()
        for source, error in failures:
            self._metrics.count_failure(source, error)
        return text

    async def _is_done(self, rendering: Future[Rendered], deadline: float) -> bool:
        """Wait for the thread until ``deadline``, and return whether it is done.

        The loop blocks for a millisecond each time, on purpose. A busy loop releases the GIL only
        while it polls its sockets, which is so short that a thread may not get it for seconds.
        """
        while not rendering.done() and perf_counter() < deadline:
            wait((rendering,), _SLICE_SECONDS)
            await asyncio.sleep(0 if rendering.done() else _PAUSE_SECONDS)
        return rendering.done()


def _in_thread(render: Callable[[], Rendered]) -> Future[Rendered]:
    """Run ``render`` in a daemon thread: a thread of a pool would delay the process's end."""
    rendering: Future[Rendered] = Future()
    Thread(target=lambda: rendering.set_result(render()), name=_NAME, daemon=True).start()
    return rendering


async def gzipped(text: bytes) -> bytes:
    """Return ``text`` in gzip, compressed in chunks between which the event loop runs."""
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    chunks = []
    for start in range(0, len(text), _CHUNK):
        chunks.append(compressor.compress(text[start : start + _CHUNK]))
        await asyncio.sleep(0)
    return b"".join((*chunks, compressor.flush()))
