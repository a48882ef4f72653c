"""Counters, gauges and histograms that cost as much as an addition, exposed to Prometheus.

The children of prometheus_client take a lock for every observation (0.4 to 2.2 µs). The standard
instruments of a daemon are written only by its event loop, so a child here is an object with plain
attributes (0.05 to 0.2 µs). It becomes a Prometheus family at a scrape.

Each server has its own :class:`Metrics`, and so its own registry: two servers in one process do not
mix. A service makes its own instruments with prometheus_client and ``registry=metrics.registry``.
Those that are made without a registry are in prometheus_client's default one, and every server of
the process serves them.

The memory is bounded: an instrument has a limited number of label combinations, and a label value
has at most 256 characters. Combinations beyond the limit are counted together under the label
values ``_OVERFLOW``, and in a metric of their own.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gizmopy.untrusted.text import cut

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds for durations, from the semantic conventions of OpenTelemetry."""

OVERFLOW = "_OVERFLOW"
"""The value of each label of the child that all combinations beyond the limit share."""

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*").fullmatch
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*").fullmatch
MAX_CHILDREN = 2_000
_MAX_VALUE = 256
"""The characters that are kept of a label value; a longer one is cut, with a note."""


class CounterChild:
    """A counter with given label values: add to ``value``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class GaugeChild:
    """A gauge with given label values: set ``value``, or add to it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class HistogramChild:
    """A histogram with given label values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count ``value`` in its bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count each of ``values``, at a tenth of the cost if all are in the first bucket."""
        if values and max(values) <= self.bounds[0]:
            self.counts[0] += len(values)
        else:
            for value in values:
                self.counts[bisect_left(self.bounds, value)] += 1
        self.total += sum(values)


ChildT = TypeVar("ChildT", CounterChild, GaugeChild, HistogramChild)
Kind = Literal["counter", "gauge", "histogram"]


class Instrument(Generic[ChildT]):
    """A metric: a name, its labels, and a child for each combination of label values.

    It has at most ``max_children`` children. Each look-up of a further combination is counted in
    ``overflows`` and returns one shared child, so that labels taken from input cannot fill the
    memory. Raises ValueError for a name or a label that Prometheus forbids.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        help_text: str,
        labels: Sequence[str],
        make: Callable[[], ChildT],
        max_children: int,
    ) -> None:
        if not _NAME(name):
            raise ValueError(f"a metric's name is letters, digits and underscores, not {name!r}")
        for label in labels:
            if not _LABEL(label) or (kind == "histogram" and label == "le"):
                raise ValueError(f"{name} cannot have the label {label!r}; use another name")
        self.kind: Kind = kind
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self.overflows = 0
        self._make: Callable[[], ChildT] = make
        self._max_children = max_children
        self._children: dict[tuple[str, ...], ChildT] = {}

    def child(self, *values: str) -> ChildT:
        """Return the child for these label values, in the order of ``labels``.

        Look it up once and keep it: the look-up costs more than an observation. A value is cut to
        256 characters. Raises ValueError if the number of values is not the number of labels.
        """
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
            # Not before the first look-up: cutting costs more than that, and nearly all values are
            # short.
            values = tuple([cut(value, _MAX_VALUE) for value in values])
            if len(self._children) >= self._max_children and values not in self._children:
                values = self._overflow(values)
            child = self._children.setdefault(values, self._make())
        return child

    def children(self) -> list[tuple[tuple[str, ...], ChildT]]:
        """Return a copy of the list of children, each with its label values."""
        # A copy, because a scrape pauses between two children, and new ones may be added then.
        return list(self._children.items())

    def _overflow(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """Count a combination beyond the limit, and return the shared combination."""
        if not self.overflows:
            logger.warning(
                "%s has reached the limit of %d combinations of label values; %s and others are "
                "counted as %s; use labels with few values",
                *(self.name, len(self._children), values, OVERFLOW),
            )
        self.overflows += 1
        return (OVERFLOW,) * len(values)


Counter = Instrument[CounterChild]
Gauge = Instrument[GaugeChild]
Histogram = Instrument[HistogramChild]


class Metrics(Collector):
    """The instruments of a server, and the Prometheus registry that exposes them.

    Asking for a name a second time returns the same instrument; its labels may be left out then.
    Raises ValueError if it was made as another kind or with other labels. An instrument has at most
    ``max_children`` combinations of label values (default 2,000); look-ups beyond that are counted
    in ``gizmo_metrics_overflow_total``.
    """

    def __init__(self, *, max_children: int = MAX_CHILDREN) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._max_children = max_children
        self._instruments: dict[str, Instrument[Any]] = {}
        self._before_scrape: list[Callable[[], None]] = []
        self._overflows = self.counter(
            "gizmo_metrics_overflow",
            "Look-ups of label combinations beyond the limit of a metric.",
            ("metric",),
        )
        self._failures = self.counter(
            "gizmo_metrics_failures", "Failures to read a part of the metrics.", ("source",)
        )

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """Return the counter ``name`` (without the ``_total`` that Prometheus adds)."""
        name = name.removesuffix("_total")
        return self._instrument("counter", name, help_text, labels, CounterChild)

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        """Return the gauge ``name``."""
        return self._instrument("gauge", name, help_text, labels, GaugeChild)

    def histogram(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        bounds: Sequence[float] = SECONDS,
    ) -> Histogram:
        """Return the histogram ``name`` with buckets up to each of ``bounds``, ascending."""
        return self._instrument(
            "histogram", name, help_text, labels, lambda: HistogramChild(bounds)
        )

    def _instrument(
        self,
        kind: Kind,
        name: str,
        help_text: str,
        labels: Sequence[str],
        make: Callable[[], ChildT],
    ) -> Instrument[ChildT]:
        known: Instrument[ChildT] | None = self._instruments.get(name)
        if known is None:
            known = Instrument(kind, name, help_text, labels, make, self._max_children)
            self._instruments[name] = known
        if known.kind != kind or (labels and known.labels != tuple(labels)):
            raise ValueError(
                f"{name} is a {known.kind} with the labels {known.labels}, "
                f"not a {kind} with {tuple(labels)}; use another name"
            )
        return known

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Call ``refresh`` before each scrape, for gauges that are cheaper to read than to keep."""
        self._before_scrape.append(refresh)

    def refresh(self) -> None:
        """Call the functions given to ``before_scrape``; one that raises is counted and skipped."""
        for refresh in self._before_scrape:
            try:
                refresh()
            except Exception as error:  # noqa: BLE001 - one faulty function must not hide the other metrics
                self.count_failure(getattr(refresh, "__qualname__", "before_scrape"), error)
        for instrument in self.instruments():
            if instrument.overflows:
                self._overflows.child(instrument.name).value = instrument.overflows

    def count_failure(self, source: str, error: Exception) -> None:
        """Count a failure to read ``source``, and log the first one."""
        # Not each one: a collector that is broken fails at every scrape.
        failures = self._failures.child(source)
        if not failures.value:
            logger.error("metrics are missing: %s failed", source, exc_info=error)
        failures.value += 1

    def instruments(self) -> list[Instrument[Any]]:
        """Return a copy of the list of instruments."""
        return list(self._instruments.values())

    def registries(self) -> tuple[CollectorRegistry, ...]:
        """Return the registries of a scrape: ours, then the one of metrics made without any."""
        return self.registry, prometheus_client.REGISTRY

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus.

        It blocks; a server uses :class:`~gizmopy.observe.exposition.Exposition`.
        """
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Return no metrics: without this method prometheus_client collects at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield a Prometheus family for every instrument."""
        self.refresh()
        for instrument in self.instruments():
            yield _FAMILIES[instrument.kind](instrument)


def _counter_family(counter: Counter) -> CounterMetricFamily:
    family = CounterMetricFamily(counter.name, counter.help_text, labels=counter.labels)
    for values, child in counter.children():
        family.add_metric(values, child.value)
    return family


def _gauge_family(gauge: Gauge) -> GaugeMetricFamily:
    family = GaugeMetricFamily(gauge.name, gauge.help_text, labels=gauge.labels)
    for values, child in gauge.children():
        family.add_metric(values, child.value)
    return family


def _histogram_family(histogram: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(histogram.name, histogram.help_text, labels=histogram.labels)
    for values, child in histogram.children():
        uppers = (*map(floatToGoString, child.bounds), "+Inf")
        buckets = list(zip(uppers, accumulate(child.counts), strict=True))
        family.add_metric(values, buckets, child.total)
    return family


_FAMILIES: dict[Kind, Callable[[Any], Metric]] = {
    "counter": _counter_family,
    "gauge": _gauge_family,
    "histogram": _histogram_family,
}
