"""Read collectors of prometheus_client: those of a server's registry, and of the default one.

``CollectorRegistry._collector_to_names`` is private: the public ``collect`` reads all collectors,
so that one that raises would hide the others, and one that is not asked for would be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client import (
    GC_COLLECTOR,
    PROCESS_COLLECTOR,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from gizmopy.observe.scrapes import Scrape, sample_names

_STANDARD = (ProcessCollector, GCCollector, PlatformCollector)
"""Collectors that both registries have; the second one is left out without a word."""
_DEFAULTS = (PROCESS_COLLECTOR, GC_COLLECTOR)
_EOF = b"# EOF\n"

Rendered = tuple[bytes, list[tuple[str, Exception]]]
"""A text, and the name and error of each part that is missing in it."""


class Registered(NamedTuple):
    """A collector, and the names that it has declared; none if it declares nothing."""

    collector: Collector
    names: frozenset[str]


def registered(registry: CollectorRegistry) -> list[Registered]:
    """Return the collectors of a registry."""
    with registry._lock:
        known = list(registry._collector_to_names.items())
    return [Registered(collector, frozenset(names)) for collector, names in known]


def asked_for(
    registries: Iterable[CollectorRegistry], scrape: Scrape, without: Collector
) -> list[Registered]:
    """Return the collectors, each once, that may have a metric which ``scrape`` asks for.

    A collector that declares no names may have any. The default ones of prometheus_client are left
    out: every server has its own.
    """
    found: dict[Collector, Registered] = {}
    for registry in registries:
        for each in registered(registry):
            is_ours = each.collector is without or each.collector in _DEFAULTS
            if not is_ours and (not each.names or scrape.takes(each.names)):
                found.setdefault(each.collector, each)
    return list(found.values())


def render_each(collectors: Iterable[Registered], scrape: Scrape, taken: set[str]) -> Rendered:
    """Render collectors one by one, so that a failing one does not hide the others.

    A metric whose name, or that of one of its samples, is in ``taken`` already is left out: a
    scraper refuses a text with two metrics of one name, and with it all the others.
    """
    texts: list[bytes] = []
    failures: list[tuple[str, Exception]] = []
    for collector, _ in collectors:
        name = type(collector).__name__
        try:
            families = list(collector.collect())
            free = [each for each in families if _take(each, taken)]
            if len(free) < len(families) and not isinstance(collector, _STANDARD):
                failures.append((name, _twice(families, free)))
            texts.append(_text(_Families(_restricted(free, scrape)), scrape))
        except Exception as error:  # noqa: BLE001 - it is the collector of a user
            failures.append((name, error))
    return b"".join(texts), failures


def _take(family: Metric, taken: set[str]) -> bool:
    """Add the names of a metric to ``taken``, and return whether all of them were free."""
    names = {*sample_names(family.name, family.type), *[each.name for each in family.samples]}
    if not taken.isdisjoint(names):
        return False
    taken |= names
    return True


def _twice(families: list[Metric], free: list[Metric]) -> ValueError:
    left_out = ", ".join([each.name for each in families if each not in free])
    return ValueError(
        f"/metrics has the name already, so a second metric is left out: {left_out}; rename it, or "
        "remove it from one of the registries"
    )


def _restricted(families: Iterable[Metric], scrape: Scrape) -> Iterator[Metric]:
    """Yield the metrics with the samples that are asked for; all for the name of the metric."""
    for family in families:
        if not scrape.names or family.name in scrape.names:
            yield family
            continue
        samples = [each for each in family.samples if each.name in scrape.names]
        if samples:
            part = Metric(family.name, family.documentation, family.type, family.unit)
            part.samples = samples
            yield part


class _Families(CollectorRegistry):
    """The families of one collector, as the functions of prometheus_client take them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: CollectorRegistry, scrape: Scrape) -> bytes:
    if scrape.format == "text":
        return generate_latest(families)
    text: bytes = openmetrics.generate_latest(families)  # type: ignore[no-untyped-call]
    return text.removesuffix(_EOF)
