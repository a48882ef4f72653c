"""Render the metrics for a scrape while the server goes on serving.

prometheus_client renders everything at one go: 600 histograms keep the event loop for a third of a
second, and in a thread they fight it for the interpreter. Here our own instruments are written on
the loop, a millisecond at a time, with the parts of their text that do not change kept from scrape
to scrape. Only other collectors, whose time nobody knows, are rendered in a thread.
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
_APART_SECONDS = 0.01
_FRESH_SECONDS = 1.0
_CHEAP_SECONDS = 0.05
"""What a run may take and be made anew for each scrape."""
_PATIENCE_SECONDS = 5.0
"""How long other collectors are waited for: Prometheus itself gives up after 10 s."""

_SLOT = "\0"
"""Where the label text of a child goes in the text of its family."""

_Rendered = tuple[bytes, list[tuple[str, Exception]]]
"""A text, and the name of each collector that is missing in it, with its error."""


class Scraper:
    """Render ``metrics``: one run at a time, whose text serves every scrape that comes meanwhile.

    Where a run took longer than ``cheap`` seconds, it serves those of the next second, too.

    Use it as an async context manager; leaving it ends a run that is under way. A collector of
    prometheus_client's that raises, or is not done within ``patience`` seconds, is left out and
    counted in ``gizmo_metrics_failures_total``. ``clock`` tells seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE_SECONDS,
        cheap: float = _CHEAP_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._patience = patience
        self._cheap = cheap
        self._took = 0.0
        self._families: dict[str, _Family] = {}
        self._run: asyncio.Task[bytes] | None = None
        self._run_began = 0.0
        self._rendering: Future[_Rendered] | None = None

    async def __aenter__(self) -> Scraper:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._run is not None:
            await cancel_and_wait((self._run,))

    async def render(self) -> bytes:
        """Return the metrics in Prometheus' text format, no value older than about a second."""
        if self._run is None or (self._run.done() and not self._is_fresh()):
            self._run_began = self._clock()
            self._run = asyncio.create_task(self._render(), name="gizmopy-scrape")
        return await asyncio.shield(self._run)  # whoever gives up ends it for nobody else

    def _is_fresh(self) -> bool:
        return self._took > self._cheap and self._clock() - self._run_began < _FRESH_SECONDS

    async def _render(self) -> bytes:
        began = perf_counter()
        foreign = await self._render_foreign()
        self._metrics.refresh()
        texts = []
        pause_at = 0.0  # what is refreshed takes its time too
        for text in self._texts():
            texts.append(text)
            if perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = perf_counter() + _SLICE_SECONDS
        self._took = perf_counter() - began
        return b"".join((*texts, foreign))

    def _texts(self) -> Iterator[bytes]:
        for instrument in self._metrics.instruments():
            family = self._families.get(instrument.name)
            if family is None:
                family = self._families[instrument.name] = _Family(instrument)
            yield from family.texts()

    async def _render_foreign(self) -> bytes:
        """Return the text of other collectors, or nothing where they are not done in time.

        The next scrape waits for them again: there is never more than one thread at work. What it
        was done with meanwhile is too old by then.
        """
        if self._rendering is None or self._rendering.done():
            self._rendering = _in_thread(partial(_render_each, self._metrics.foreign()))
        if not await self._is_done(self._rendering):
            late = TimeoutError(f"they are not done after {self._patience:g} s")
            self._metrics.count_failure("collectors", late)
            return b""
        text, failures = self._rendering.result()
        for source, error in failures:
            self._metrics.count_failure(source, error)
        return text

    async def _is_done(self, rendering: Future[_Rendered]) -> bool:
        """Wait for the thread, and stand still for it: one slice, then again and again.

        A busy loop lets go of the interpreter for so short a time, in each look at its sockets,
        that a thread may not get hold of it for seconds.
        """
        give_up_at = perf_counter() + self._patience
        while not rendering.done() and perf_counter() < give_up_at:
            wait((rendering,), _SLICE_SECONDS)
            await asyncio.sleep(0 if rendering.done() else _APART_SECONDS)
        return rendering.done()


def _in_thread(render: Callable[[], _Rendered]) -> Future[_Rendered]:
    """Run ``render`` in a thread that does not keep the process from ending, as a pool's would."""
    rendering: Future[_Rendered] = Future()
    Thread(
        target=lambda: rendering.set_result(render()), name="gizmopy-scrape", daemon=True
    ).start()
    return rendering


def _render_each(collectors: list[Collector]) -> _Rendered:
    """Render collectors one by one, so that one that fails takes no other with it."""
    texts, failures = [], []
    for collector in collectors:
        try:
            texts.append(generate_latest(collector))
        except Exception as error:  # noqa: BLE001 - a user's collector; the others are wanted
            failures.append((type(collector).__name__, error))
    return b"".join(texts), failures


class _Family:
    """Write one instrument. What never changes of its text is made once."""

    def __init__(self, instrument: Instrument[Any]) -> None:
        self._instrument = instrument
        self._head = _head(instrument).encode()
        self._labels: dict[tuple[str, ...], str] = {}
        self._template = ""  # of a child; the first one tells a histogram's bounds

    def texts(self) -> Iterator[bytes]:
        """Yield the family's head, then the lines of each child, which belong to one moment."""
        yield self._head
        for values, child in self._instrument.children():
            labels = self._labels.get(values)
            if labels is None:
                labels = self._labels[values] = _label_text(self._instrument.labels, values)
            template = self._template = self._template or _template(self._instrument, child)
            yield (template.replace(_SLOT, labels) % _numbers(child)).encode()


def _head(instrument: Instrument[Any]) -> str:
    name = f"{instrument.name}_total" if instrument.kind == "counter" else instrument.name
    help_text = instrument.help_text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {help_text}\n# TYPE {name} {instrument.kind}\n"


def _template(
    instrument: Instrument[Any], child: CounterChild | GaugeChild | HistogramChild
) -> str:
    """Return a child's lines, with ``_SLOT`` for its labels and a ``%`` for each number."""
    name = instrument.name
    braces = f"{{{_SLOT}}}" if instrument.labels else ""
    if not isinstance(child, HistogramChild):
        return f"{name}{'_total' if instrument.kind == 'counter' else ''}{braces} %s\n"
    before = f"{name}_bucket{{{_SLOT}," if instrument.labels else f"{name}_bucket{{"
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
    """Return labels by name, as the format has them, ready to stand in a template."""
    pairs = sorted(zip(names, values, strict=True))
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs).replace("%", "%%")


def _escaped(value: str) -> str:
    # Bytes that were not UTF-8 are lone surrogates, which cannot be encoded again.
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
