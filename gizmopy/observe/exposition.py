"""Render the metrics for a scrape without blocking the event loop.

prometheus_client renders all metrics in one call: 600 histograms block the event loop for a third
of a second, and in a thread they compete with it for the GIL. Here our own instruments are rendered
on the loop, a millisecond at a time, and the constant parts of their text are kept between scrapes.
Other collectors, which may take any time, are rendered in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from itertools import accumulate
from threading import Thread
from time import perf_counter
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gizmopy._aio import cancel_and_wait
from gizmopy.observe.metrics import CounterChild, GaugeChild, HistogramChild, Instrument, Metrics

_SLICE_SECONDS = 0.001
"""The time that the event loop or the collectors' thread runs before the other one does."""
_PAUSE_SECONDS = 0.01
_FRESH_SECONDS = 1.0
_CHEAP_SECONDS = 0.05
"""A run that is faster than this is repeated for every scrape."""
_COLLECTOR_SECONDS = 5.0
"""The timeout of other collectors: Prometheus itself gives up after 10 s."""

_LABELS = "\0"
"""The placeholder for the labels of a child in a template."""

_Rendered = tuple[bytes, list[tuple[str, Exception]]]
"""A text, and the name and error of each collector that is missing in it."""


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
        self._run_seconds = 0.0
        self._families: dict[str, _Family] = {}
        self._run: asyncio.Task[bytes] | None = None
        self._run_started_at = 0.0
        self._rendering: Future[_Rendered] | None = None

    async def __aenter__(self) -> Exposition:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._run is not None:
            await cancel_and_wait((self._run,))

    async def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus; no value is much older than 1 s."""
        if self._run is None or (self._run.done() and not self._is_fresh()):
            self._run_started_at = self._clock()
            self._run = asyncio.create_task(self._render(), name="gizmopy-scrape")
        # A scrape whose client disconnects is cancelled; other scrapes wait for the same run.
        return await asyncio.shield(self._run)

    def _is_fresh(self) -> bool:
        age = self._clock() - self._run_started_at
        return self._run_seconds > self._cheap and age < _FRESH_SECONDS

    async def _render(self) -> bytes:
        started_at = perf_counter()
        others = await self._render_others()
        self._metrics.refresh()
        texts = []
        pause_at = 0.0  # a pause after the first text, because refresh() has taken time already
        for text in self._texts():
            texts.append(text)
            if perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = perf_counter() + _SLICE_SECONDS
        self._run_seconds = perf_counter() - started_at
        return b"".join((*texts, others))

    def _texts(self) -> Iterator[bytes]:
        for instrument in self._metrics.instruments():
            family = self._families.get(instrument.name)
            if family is None:
                family = self._families[instrument.name] = _Family(instrument)
            yield from family.texts()

    async def _render_others(self) -> bytes:
        """Return the text of other collectors, or nothing if they take too long.

        If they do, the next scrape waits for the same thread again: there is never more than one.
        A result that was ready in between is not used, because its values are old by then.
        """
        if self._rendering is None or self._rendering.done():
            collectors = self._metrics.other_collectors()
            self._rendering = _in_thread(partial(_render_each, collectors))
        if not await self._is_done(self._rendering):
            late = TimeoutError(f"collectors take longer than {self._timeout:g} s")
            self._metrics.count_failure("collectors", late)
            return b""
        text, failures = self._rendering.result()
        for source, error in failures:
            self._metrics.count_failure(source, error)
        return text

    async def _is_done(self, rendering: Future[_Rendered]) -> bool:
        """Wait for the thread until the timeout, and return whether it is done.

        The loop blocks for a millisecond each time, on purpose. A busy loop releases the GIL only
        while it polls its sockets, which is so short that a thread may not get it for seconds.
        """
        deadline = perf_counter() + self._timeout
        while not rendering.done() and perf_counter() < deadline:
            wait((rendering,), _SLICE_SECONDS)
            await asyncio.sleep(0 if rendering.done() else _PAUSE_SECONDS)
        return rendering.done()


def _in_thread(render: Callable[[], _Rendered]) -> Future[_Rendered]:
    """Run ``render`` in a daemon thread: a thread of a pool would delay the process's end."""
    rendering: Future[_Rendered] = Future()
    Thread(
        target=lambda: rendering.set_result(render()), name="gizmopy-scrape", daemon=True
    ).start()
    return rendering


def _render_each(collectors: list[Collector]) -> _Rendered:
    """Render collectors one by one, so that a failing one does not hide the others."""
    texts, failures = [], []
    for collector in collectors:
        try:
            texts.append(generate_latest(collector))
        except Exception as error:  # noqa: BLE001 - it is the collector of a user
            failures.append((type(collector).__name__, error))
    return b"".join(texts), failures


class _Family:
    """Render one instrument. The constant parts of its text are made once."""

    def __init__(self, instrument: Instrument[Any]) -> None:
        self._instrument = instrument
        self._head = _head(instrument).encode()
        self._labels: dict[tuple[str, ...], str] = {}
        self._template = ""
        """The lines of a child; made from the first child, which has a histogram's bounds."""

    def texts(self) -> Iterator[bytes]:
        """Yield the head of the family, then the lines of each child, read at one moment."""
        yield self._head
        for values, child in self._instrument.children():
            labels = self._labels.get(values)
            if labels is None:
                labels = self._labels[values] = _label_text(self._instrument.labels, values)
            template = self._template = self._template or _template(self._instrument, child)
            yield (template.replace(_LABELS, labels) % _numbers(child)).encode()


def _head(instrument: Instrument[Any]) -> str:
    name = f"{instrument.name}_total" if instrument.kind == "counter" else instrument.name
    help_text = instrument.help_text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {help_text}\n# TYPE {name} {instrument.kind}\n"


def _template(
    instrument: Instrument[Any], child: CounterChild | GaugeChild | HistogramChild
) -> str:
    """Return the lines of a child, with ``_LABELS`` for its labels and a ``%`` for each number."""
    name = instrument.name
    braces = f"{{{_LABELS}}}" if instrument.labels else ""
    if not isinstance(child, HistogramChild):
        return f"{name}{'_total' if instrument.kind == 'counter' else ''}{braces} %s\n"
    before = f"{name}_bucket{{{_LABELS}," if instrument.labels else f"{name}_bucket{{"
    buckets = [f'{before}le="{_number(b)}"}} %d\n' for b in (*child.bounds, float("inf"))]
    return f"{''.join(buckets)}{name}_count{braces} %d\n{name}_sum{braces} %s\n"


def _numbers(child: CounterChild | GaugeChild | HistogramChild) -> tuple[int | str, ...]:
    if not isinstance(child, HistogramChild):
        return (_number(child.value),)
    cumulative = (*accumulate(child.counts),)
    return (*cumulative, cumulative[-1], _number(child.total))


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # prometheus_client's


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return labels sorted by name, in the text format, escaped for a template."""
    pairs = sorted(zip(names, values, strict=True))
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs).replace("%", "%%")


def _escaped(value: str) -> str:
    # A client can send bytes that are not UTF-8. They are lone surrogates here, which cannot be
    # encoded as UTF-8.
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
