"""What a scrape asks for, and the default registry of prometheus_client."""

import asyncio
import gzip
import threading
from collections.abc import Iterable, Iterator

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector

from gizmopy.observe.exposition import Exposition, gzipped
from gizmopy.observe.metrics import Metrics
from gizmopy.observe.scrapes import Format, Scrape, accepts_gzip, negotiated_format

OPENMETRICS = "application/openmetrics-text"
PROMETHEUS_2 = (
    f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.5,{OPENMETRICS};version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Give a default registry of this test, with what prometheus_client registers in it."""
    registry = CollectorRegistry(auto_describe=True)
    for collector in (
        prometheus_client.PROCESS_COLLECTOR,
        prometheus_client.PLATFORM_COLLECTOR,
        prometheus_client.GC_COLLECTOR,
    ):
        registry.register(collector)
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    return registry


async def _render(
    metrics: Metrics, format_: Format = "text", names: Iterable[str] = ()
) -> list[Metric]:
    async with Exposition(metrics) as exposition:
        text = (await exposition.render(Scrape(format_, frozenset(names)))).decode()
    if format_ == "text":
        return list(plain(text))
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    return list(openmetrics(text))  # type: ignore[no-untyped-call]  # prometheus_client's


def _sample_names(families: Iterable[Metric]) -> set[str]:
    return {sample.name for family in families for sample in family.samples}


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("", "text"),
        ("*/*", "text"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text"),
        ("text/plain", "text"),
        (OPENMETRICS, "openmetrics"),
        (f"{OPENMETRICS}; version=1.0.0; charset=utf-8", "openmetrics"),
        (f'{OPENMETRICS.upper()}; Version="1.0.0" ; Q=0.3', "openmetrics"),
        (f"{OPENMETRICS};version=0.0.1", "text"),
        (f"{OPENMETRICS};version=2.0.0", "text"),
        (f"{OPENMETRICS};q=0", "text"),
        (f"{OPENMETRICS};q=0.2,text/plain;q=0.9", "text"),
        (f"text/plain;q=0.2,{OPENMETRICS};q=0.9", "openmetrics"),
        (f"{OPENMETRICS};q=0.2,*/*;q=0.9", "text"),
        (f"{OPENMETRICS},text/plain", "openmetrics"),
        (f"text/plain,{OPENMETRICS}", "text"),
        (f"{OPENMETRICS};q=nan,text/plain;q=0.1", "text"),
        (f"{OPENMETRICS};q=much", "openmetrics"),
        ("application/json", "text"),
        ("text/plain;q=0,*/*;q=0", "text"),
        (";;,,=;q", "text"),
        (PROMETHEUS_2, "openmetrics"),
        (PROMETHEUS_3, "openmetrics"),
    ],
)
def test_the_format_is_negotiated(accept: str, format_: Format) -> None:
    """The highest q wins, then the first; what is unknown gets the text format."""
    assert negotiated_format(accept) == format_


@pytest.mark.parametrize(
    ("coding", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, br", False),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0.3, identity;q=0.8", False),
        ("identity, gzip", True),
    ],
)
def test_gzip_is_negotiated(coding: str, accepted: bool) -> None:
    """A q of 0 forbids it, and * stands for a coding that is not named."""
    assert accepts_gzip(coding) == accepted


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_a_text_is_compressed(size: int) -> None:
    """Gzip gives back what was compressed."""
    assert gzip.decompress(await gzipped(b"x" * size)) == b"x" * size


@pytest.mark.parametrize("format_", ["text", "openmetrics"])
async def test_metrics_made_without_a_registry_are_served(
    format_: Format, default: CollectorRegistry
) -> None:
    """Each kind of prometheus_client is there, and no name twice."""
    Counter("orders", 'Of "cats" \\ and\ndogs.', ["kind"], registry=default).labels("a").inc()
    Gauge("mood", "Mood.", registry=default).set(3)
    Histogram("nap_seconds", "Naps.", registry=default).observe(0.2)
    Summary("size", "Sizes.", registry=default).observe(2)
    Info("build", "Build.", registry=default).info({"version": "1"})
    metrics = Metrics()
    metrics.gauge("target_info", "The service.", ("service_name",)).child("shop").value = 1

    families = await _render(metrics, format_)

    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {"orders_total", "mood", "nap_seconds_count", "size_sum", "build_info"} <= _sample_names(
        families
    )
    assert {"target_info", "python_info", "process_cpu_seconds_total"} <= _sample_names(families)


@pytest.mark.parametrize("format_", ["text", "openmetrics"])
async def test_no_name_is_twice(
    format_: Format, default: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector in both registries is read once; a second metric of a name is left out, told."""
    metrics = Metrics()
    both = Counter("both", "Both.", registry=default)
    metrics.registry.register(both)
    Gauge("twice", "Ours.", registry=metrics.registry).set(1)
    Gauge("twice", "The other.", registry=default).set(2)
    metrics.gauge("own", "Own.").child().value = 1
    Gauge("own", "Not own.", registry=default).set(2)
    metrics.counter("hits", "Hits.").child().value = 1
    Gauge("hits_total", "A sample of the counter hits.", registry=default).set(2)

    families = await _render(metrics, format_)

    names = [family.name for family in families]
    assert len(names) == len(set(names))
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert (values["both_total"], values["twice"], values["own"], values["hits_total"]) == (
        (0, 1, 1, 1)
    )
    told = "".join(str(record.exc_info) for record in caplog.records)
    assert "twice" in told
    assert "process_" not in told


@pytest.mark.parametrize("format_", ["text", "openmetrics"])
@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["own"], {"own_total"}),
        (["own_total", "mood"], {"own_total", "mood"}),
        (["nap_seconds"], {"nap_seconds_bucket", "nap_seconds_count", "nap_seconds_sum"}),
        (["nap_seconds_count"], {"nap_seconds_count"}),
        (["orders_total"], {"orders_total"}),
        (["unnamed"], {"unnamed"}),
        (["nap", "nap_seconds_coun", 'x"}\n', "é"], set()),
    ],
)
async def test_only_names_that_are_asked_for(
    format_: Format, names: list[str], found: set[str], default: CollectorRegistry
) -> None:
    """A name is that of a metric or of its samples; an unknown one finds nothing."""
    metrics = Metrics()
    metrics.counter("own", "Own.").child().value = 1
    metrics.histogram("nap_seconds", "Naps.", ("cat",)).child("Tom").observe(1)
    Gauge("mood", "Mood.", registry=metrics.registry).set(3)
    Counter("orders", "Orders.", registry=default).inc()
    metrics.registry.register(_Unnamed())

    async with Exposition(metrics) as exposition:
        text = (await exposition.render(Scrape(format_, frozenset(names)))).decode()

    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert {line.partition("{")[0].partition(" ")[0] for line in lines} == found


class _Unnamed(Collector):
    """A collector that does not declare its names."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("unnamed", "Unnamed.", value=1)


class _Slow(Collector):
    """A collector that declares its name, and waits when it is read."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.calls = 0

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("slow", "Slow.")

    def collect(self) -> Iterator[Metric]:
        self.calls += 1
        self.let.wait(timeout=30)
        yield GaugeMetricFamily("slow", "Slow.", value=1)


async def test_a_collector_that_is_not_asked_for_is_not_read(default: CollectorRegistry) -> None:
    """Names are compared with those that a collector declares, before it is read."""
    metrics, slow = Metrics(), _Slow()
    default.register(slow)
    await _render(metrics, names=["mood"])
    assert slow.calls == 0
    slow.let.set()
    assert _sample_names(await _render(metrics, names=["slow"])) == {"slow"}


async def test_scrapes_for_names_do_not_read_collectors_side_by_side() -> None:
    """Scrapes for different names take turns: one thread, and one of them waits by blocking."""
    metrics, slow = Metrics(), _Slow()
    metrics.registry.register(slow)
    async with Exposition(metrics, timeout=0.05) as exposition:
        scrapes = [Scrape("text", frozenset({"slow", f"x{number}"})) for number in range(20)]
        texts = await asyncio.gather(*map(exposition.render, scrapes))
        threads = [each for each in threading.enumerate() if each.name == "gizmopy-scrape"]
        slow.let.set()
        for thread in threads:
            thread.join()
    assert set(texts) == {b""}
    assert len(threads) == 1
    assert slow.calls == 1
