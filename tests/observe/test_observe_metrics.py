"""Cheap cells that Prometheus can read."""

import pytest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.parser import text_string_to_metric_families

from gizmopy.observe.context import new_id
from gizmopy.observe.metrics import Metrics


def _samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_counted_is_scraped() -> None:
    """Counters, gauges and histograms come out with their labels, buckets being cumulative."""
    metrics = Metrics()
    metrics.counter("cats", "Cats.", ("colour",)).cell("black").value += 2
    metrics.gauge("mood", "Mood.").cell().value = 0.5
    naps = metrics.histogram("nap_seconds", "Naps.", bounds=(1.0, 10.0)).cell()
    for seconds in (0.5, 1.0, 3.0, 60.0):
        naps.observe(seconds)

    samples = _samples(metrics)
    assert samples["cats_total", frozenset({("colour", "black")})] == 2
    assert samples["mood", frozenset()] == 0.5
    assert samples["nap_seconds_bucket", frozenset({("le", "1.0")})] == 2
    assert samples["nap_seconds_bucket", frozenset({("le", "10.0")})] == 3
    assert samples["nap_seconds_bucket", frozenset({("le", "+Inf")})] == 4
    assert samples["nap_seconds_count", frozenset()] == 4
    assert samples["nap_seconds_sum", frozenset()] == 64.5


def test_the_same_name_is_the_same_instrument() -> None:
    """Two rooms that ask for a name share its cells."""
    metrics = Metrics()

    assert metrics.counter("cats", "Cats.") is metrics.counter("cats", "Cats.")
    assert metrics.gauge("mood", "Mood.") is metrics.gauge("mood", "Mood.")
    assert metrics.histogram("naps", "Naps.") is metrics.histogram("naps", "Naps.")


def test_a_cell_has_as_many_values_as_labels() -> None:
    """A cell with the wrong number of label values is refused by name."""
    with pytest.raises(ValueError, match=r"cats has the labels \('colour',\), not \(\)"):
        Metrics().counter("cats", "Cats.", ("colour",)).cell()


def test_two_servers_do_not_mix() -> None:
    """Each Metrics has its own registry, shared with the service's own instruments."""
    mine, yours = Metrics(), Metrics()
    PrometheusCounter("own", "Own.", registry=mine.registry).inc()
    mine.counter("cats", "Cats.").cell().value += 1

    assert ("own_total", frozenset()) in _samples(mine)
    assert not {"own_total", "cats_total"} & {name for name, _ in _samples(yours)}


def test_gauges_are_refreshed_before_a_scrape() -> None:
    """A gauge that is dear to keep is set when somebody looks."""
    metrics = Metrics()
    cell = metrics.gauge("age", "Age.").cell()
    metrics.before_scrape(lambda: setattr(cell, "value", 7.0))

    assert _samples(metrics)["age", frozenset()] == 7.0


def test_the_process_is_measured_too() -> None:
    """CPU, memory and garbage collection of the process come along."""
    names = {name for name, _ in _samples(Metrics())}

    assert "process_resident_memory_bytes" in names
    assert "python_gc_collections_total" in names


def test_ids_are_long_and_never_the_same() -> None:
    """1,000 ids, more than one pool, are all different, and 32 hexadecimal digits each."""
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(text) == 32 and int(text, 16) >= 0 for text in ids)
