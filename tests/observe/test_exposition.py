"""Scrapes: their text, shared runs, and collectors that fail or hang."""

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gizmopy.observe.exposition import Exposition
from gizmopy.observe.metrics import Metrics
from gizmopy.observe.scrapes import Scrape


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Broken(Collector):
    """A collector that raises."""

    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("the database is down")


class Slow(Collector):
    """A collector that waits until a test lets it continue."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.calls = 0

    def collect(self) -> Iterator[Metric]:
        self.calls += 1
        self.let.wait(timeout=30)
        yield GaugeMetricFamily("slow", "Slow.", value=self.calls)


def _openmetrics_families(text: bytes) -> dict[str, Metric]:
    families = openmetrics_families(text.decode())  # type: ignore[no-untyped-call]  # theirs
    return {family.name: family for family in families}


def _families(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_numbers = st.floats(allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    children=st.dictionaries(st.tuples(_texts, _texts), _numbers, max_size=4),
    seconds=st.lists(st.floats(0, 100), max_size=5),
    help_text=_texts,
)
async def test_the_text_equals_that_of_prometheus_client(
    children: dict[tuple[str, str], float], seconds: list[float], help_text: str
) -> None:
    """For any labels, values and help, a parser reads the same families from both texts."""
    metrics = Metrics()
    labels = ("colour", "name")
    moods = metrics.gauge("mood", help_text, labels)
    cats = metrics.counter("cats", help_text, labels)
    naps = metrics.histogram("nap_seconds", help_text, labels, bounds=(0.1, 1, 2.5e9))
    alone = metrics.histogram("alone_seconds", help_text).child()
    metrics.counter("unused", "No children.", labels)
    for values, number in children.items():
        moods.child(*values).value = number
        cats.child(*values).value += abs(number)
        for duration in seconds:
            naps.child(*values).observe(duration)
            alone.observe(duration)

    async with Exposition(metrics) as exposition:
        families = _families(await exposition.render())
        openmetrics = _openmetrics_families(await exposition.render(Scrape("openmetrics")))
    for name, family in _families(generate_latest(metrics)).items():
        assert families[name] == family
    expected = openmetrics_latest(metrics)  # type: ignore[no-untyped-call]  # theirs
    for name, family in _openmetrics_families(expected).items():
        assert openmetrics[name] == family


async def test_numbers_are_written_as_prometheus_does() -> None:
    """Infinity, NaN and large numbers."""
    metrics = Metrics()
    numbers = metrics.gauge("number", "Numbers.", ("of",))
    for text in ("inf", "-inf", "nan", "1e300", "7"):
        numbers.child(text).value = float(text)

    async with Exposition(metrics) as exposition:
        lines = (await exposition.render()).decode().splitlines()

    assert [line.split()[1] for line in lines if line.startswith("number{")] == [
        "+Inf",
        "-Inf",
        "NaN",
        "1e+300",
        "7.0",
    ]


async def test_a_label_with_invalid_utf_8_is_escaped() -> None:
    """Lone surrogates, which cannot be encoded, stay distinct."""
    metrics = Metrics()
    cats = metrics.counter("cats", "Cats.", ("name",))
    for name in ("\udcfe", "\udcff"):
        cats.child(name).value += 1

    async with Exposition(metrics) as exposition:
        samples = _families(await exposition.render())["cats"].samples

    assert [sample.labels["name"] for sample in samples] == [r"\udcfe", r"\udcff"]


async def test_collectors_of_prometheus_client_are_included() -> None:
    """The process, the garbage collector and the service's own instruments are in a scrape."""
    metrics = Metrics()
    Counter("own", "Own.", registry=metrics.registry).inc()

    async with Exposition(metrics) as exposition:
        families = _families(await exposition.render())

    assert {"own", "process_resident_memory_bytes", "python_gc_collections"} <= families.keys()


async def test_concurrent_scrapes_share_a_run() -> None:
    """Five scrapes at the same time get the same text, made once."""
    metrics = Metrics()
    runs = metrics.counter("runs", "Runs.").child()
    metrics.before_scrape(lambda: setattr(runs, "value", runs.value + 1))

    async with Exposition(metrics) as exposition:
        texts = await asyncio.gather(*(exposition.render() for _ in range(5)))

    assert len(set(texts)) == 1
    assert runs.value == 1


async def test_a_text_is_reused_for_a_second() -> None:
    """A changed value is seen after a second, and not before."""
    metrics, clock = Metrics(), Clock()
    mood = metrics.gauge("mood", "Mood.").child()
    async with Exposition(metrics, clock=clock, cheap=0) as exposition:
        await exposition.render()
        mood.value = 7
        clock.now = 0.9
        assert b"\nmood 0.0\n" in await exposition.render()
        clock.now = 1.0
        assert b"\nmood 7.0\n" in await exposition.render()


async def test_the_age_of_a_text_counts_from_the_start_of_its_run() -> None:
    """A run longer than a second serves the scrapes that wait for it, and no later one."""
    metrics, clock = Metrics(), Clock()
    runs = metrics.counter("runs", "Runs.").child()

    def refresh() -> None:
        runs.value += 1
        clock.now += 2

    metrics.before_scrape(refresh)
    async with Exposition(metrics, clock=clock, cheap=0) as exposition:
        await asyncio.gather(exposition.render(), exposition.render())
        assert runs.value == 1
        await exposition.render()
        assert runs.value == 2


async def test_the_loop_runs_during_a_run_and_children_may_be_added() -> None:
    """Other tasks run between the slices of a long run, and may add children."""
    metrics = Metrics(max_children=100_000)
    naps = metrics.histogram("nap_seconds", "Naps.", ("cat",))
    for number in range(5_000):
        naps.child(str(number))
    turns = -1

    def begin() -> None:
        nonlocal turns
        turns = 0

    async def live() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1
            naps.child(f"new {turns}")
            metrics.gauge(f"new_{turns}", "New.")

    metrics.before_scrape(begin)
    async with Exposition(metrics) as exposition:
        other = asyncio.create_task(live())
        text = await exposition.render()
        other.cancel()
        await asyncio.wait((other,))

    assert turns > 2
    assert b'nap_seconds_count{cat="4999"} 0\n' in text


@pytest.mark.parametrize("broken", ["collector", "refresh"])
async def test_a_failing_collector_does_not_hide_other_metrics(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector or a refresh that raises is logged once and counted."""
    metrics, clock = Metrics(), Clock()

    def refresh() -> None:
        raise RuntimeError("the database is down")

    if broken == "collector":
        metrics.registry.register(Broken())
    else:
        metrics.before_scrape(refresh)
    Counter("own", "Own.", registry=metrics.registry).inc()
    mood = metrics.gauge("mood", "Mood.").child()
    metrics.before_scrape(lambda: setattr(mood, "value", 7.0))
    async with Exposition(metrics, clock=clock, cheap=0) as exposition:
        for clock.now in (0.0, 10.0):
            families = _families(await exposition.render())

    assert families["own"].samples[0].value == 1
    assert families["mood"].samples[0].value == 7
    (failures,) = families["gizmo_metrics_failures"].samples
    assert failures.value == 2
    assert failures.labels["source"].endswith("Broken" if broken == "collector" else "refresh")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "the database is down" in str(record.exc_info[1])


async def test_a_collector_that_hangs_is_left_out_until_it_is_done() -> None:
    """A scrape is rendered without it and counts it, and no second thread calls it meanwhile.

    A result after the timeout is too old for the next scrape, which calls the collector again.
    """
    metrics, clock, slow = Metrics(), Clock(), Slow()
    metrics.registry.register(slow)
    async with Exposition(metrics, clock=clock, timeout=0.01) as exposition:
        for clock.now in (10.0, 20.0):
            families = _families(await exposition.render())
            assert "slow" not in families
        assert families["gizmo_metrics_failures"].samples[0].value == 2
        assert slow.calls <= 1  # 0 if its thread has not started yet

        slow.let.set()
        for thread in threading.enumerate():
            if thread.name == "gizmopy-scrape":
                thread.join()
        while b"\nslow " not in (text := await exposition.render()):
            clock.now += 10
        assert b"\nslow 1.0\n" not in text


async def test_a_cancelled_scrape_does_not_end_the_shared_run() -> None:
    """Another scrape that waits for the run gets its text."""
    metrics, slow = Metrics(), Slow()
    metrics.registry.register(slow)
    async with Exposition(metrics) as exposition:
        one, other = (asyncio.create_task(exposition.render()) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait((one,))
        slow.let.set()
        assert b"\nslow 1.0\n" in await other


async def test_leaving_cancels_a_run() -> None:
    """A scrape that waits for it is cancelled too."""
    metrics, slow = Metrics(), Slow()
    metrics.registry.register(slow)
    async with Exposition(metrics) as exposition:
        waiting = asyncio.create_task(exposition.render())
        await asyncio.sleep(0)
    slow.let.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting
