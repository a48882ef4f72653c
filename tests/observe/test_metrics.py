"""Instruments, their children, and the limit on label combinations."""

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


def test_children_are_exposed() -> None:
    """Counters, gauges and histograms have their labels; buckets are cumulative."""
    metrics = Metrics()
    metrics.counter("cats", "Cats.", ("colour",)).child("black").value += 2
    metrics.gauge("mood", "Mood.").child().value = 0.5
    naps = metrics.histogram("nap_seconds", "Naps.", bounds=(1.0, 10.0)).child()
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


@pytest.mark.parametrize("values", [(), (0.25, 1.0), (0.5, 1.0, 3.0, 60.0)])
def test_observe_all_equals_single_observations(values: tuple[float, ...]) -> None:
    """A histogram's buckets and sum are the same either way."""
    metrics = Metrics()
    at_once = metrics.histogram("at_once", "Naps.", bounds=(1.0, 10.0)).child()
    one_by_one = metrics.histogram("one_by_one", "Naps.", bounds=(1.0, 10.0)).child()
    at_once.observe_all(values)
    for value in values:
        one_by_one.observe(value)
    assert (at_once.counts, at_once.total) == (one_by_one.counts, one_by_one.total)


def test_the_same_name_is_the_same_instrument() -> None:
    """Two modules that use a name share its children."""
    metrics = Metrics()

    assert metrics.counter("cats", "Cats.") is metrics.counter("cats", "Cats.")
    assert metrics.gauge("mood", "Mood.") is metrics.gauge("mood", "Mood.")
    assert metrics.histogram("naps", "Naps.") is metrics.histogram("naps", "Naps.")


def test_a_child_has_as_many_values_as_labels() -> None:
    """A wrong number of label values is refused, with the name of the metric."""
    with pytest.raises(ValueError, match=r"cats has the labels \('colour',\), not \(\)"):
        Metrics().counter("cats", "Cats.", ("colour",)).child()


def test_two_servers_do_not_mix() -> None:
    """Each Metrics has its own registry, shared with the service's own instruments."""
    mine, yours = Metrics(), Metrics()
    PrometheusCounter("own", "Own.", registry=mine.registry).inc()
    mine.counter("cats", "Cats.").child().value += 1

    assert ("own_total", frozenset()) in _samples(mine)
    assert not {"own_total", "cats_total"} & {name for name, _ in _samples(yours)}


def test_gauges_are_refreshed_before_a_scrape() -> None:
    """A gauge that is expensive to keep is set at a scrape."""
    metrics = Metrics()
    child = metrics.gauge("age", "Age.").child()
    metrics.before_scrape(lambda: setattr(child, "value", 7.0))

    assert _samples(metrics)["age", frozenset()] == 7.0


def test_the_process_is_measured() -> None:
    """CPU, memory and garbage collection of the process are included."""
    names = {name for name, _ in _samples(Metrics())}

    assert "process_resident_memory_bytes" in names
    assert "python_gc_collections_total" in names


def test_ids_are_long_and_never_the_same() -> None:
    """1,000 ids, more than one pool, are all different, and 32 hexadecimal digits each."""
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(len(text) == 32 and int(text, 16) >= 0 for text in ids)


def test_label_combinations_are_limited_and_overflows_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Beyond the limit, combinations share a child, are counted, and are logged once."""
    metrics = Metrics(max_children=2)
    cats = metrics.counter("cats", "Cats.", ("colour", "name"))
    for number in range(5):
        cats.child("black", str(number)).value += 1

    assert len(cats.children()) == 3
    assert cats.child("black", "1").value == 1
    samples = _samples(metrics)
    overflow = frozenset({("colour", "_OVERFLOW"), ("name", "_OVERFLOW")})
    assert samples["cats_total", overflow] == 3
    assert samples["gizmo_metrics_overflow_total", frozenset({("metric", "cats")})] == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cats has reached the limit of 2 combinations" in caplog.text


def test_the_count_of_overflows_is_limited_too() -> None:
    """If more metrics overflow than a metric has combinations, they are counted together."""
    metrics = Metrics(max_children=1)
    for name in ("cats", "dogs", "cows"):
        for colour in ("black", "white"):
            metrics.gauge(name, "Animals.", ("colour",)).child(colour)

    counted = {labels for name, labels in _samples(metrics) if name.endswith("overflow_total")}
    assert counted == {frozenset({("metric", name)}) for name in ("cats", "_OVERFLOW")}


def test_an_instrument_without_labels_never_overflows() -> None:
    """Its only child is the same at each look-up."""
    cats = Metrics(max_children=1).counter("cats", "Cats.")

    assert cats.child() is cats.child()
    assert cats.overflows == 0


def test_a_name_belongs_to_one_instrument() -> None:
    """The same name with another kind or other labels is refused."""
    metrics = Metrics()
    metrics.counter("cats", "Cats.", ("colour",))

    with pytest.raises(ValueError, match=r"cats is a counter .*, not a gauge"):
        metrics.gauge("cats", "Cats.", ("colour",))
    with pytest.raises(ValueError, match=r"with the labels \('colour',\), not .* \('name',\)"):
        metrics.counter("cats", "Cats.", ("name",))


def test_a_long_value_is_cut() -> None:
    """A label value has at most 256 characters, and always the same child."""
    cats = Metrics().counter("cats", "Cats.", ("name",))
    for _ in range(2):
        cats.child("Tom" * 1000).value += 1

    ((values, child),) = cats.children()
    assert values == (f"{('Tom' * 1000)[:256]}… (3000 characters)",)
    assert child.value == 2


def test_a_long_value_with_a_child_does_not_overflow() -> None:
    """At the limit, an existing child is still found."""
    cats = Metrics(max_children=1).counter("cats", "Cats.", ("name",))
    known = cats.child("Tom" * 1000)

    assert cats.child("Tom" * 1000) is known
    assert cats.overflows == 0


def test_names_that_prometheus_forbids_are_refused() -> None:
    """A wrong name or label raises when the metric is made, not at the first scrape."""
    metrics = Metrics()

    with pytest.raises(ValueError, match="not 'cats in house'"):
        metrics.counter("cats in house", "Cats.")
    for label in ("a-b", "__a", ""):
        with pytest.raises(ValueError, match=f"cats cannot have the label '{label}'"):
            metrics.gauge("cats", "Cats.", (label,))
    with pytest.raises(ValueError, match="naps cannot have the label 'le'"):
        metrics.histogram("naps", "Naps.", ("le",))


def test_the_suffix_total_of_a_counter_is_optional() -> None:
    """``cats_total`` and ``cats`` are one counter."""
    metrics = Metrics()
    metrics.counter("cats_total", "Cats.").child().value += 1

    assert metrics.counter("cats", "Cats.").child().value == 1
