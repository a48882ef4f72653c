"""Write an instrument in the text format of Prometheus, or in that of OpenMetrics 1.0.

The constant parts of the text are made once and kept between scrapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.utils import floatToGoString

from gizmopy.observe.metrics import CounterChild, GaugeChild, HistogramChild, Instrument
from gizmopy.observe.scrapes import Format, Scrape, only, sample_names

_LABELS = "\0"
"""The placeholder for the labels of a child in a template."""
_INFO = "target_info"
"""The gauge that OpenMetrics has a type of its own for."""


class Family:
    """Render one instrument. The constant parts of its text are made once."""

    def __init__(self, instrument: Instrument[Any]) -> None:
        self._instrument = instrument
        self._heads: dict[Format, bytes] = {
            "text": _head(instrument).encode(),
            "openmetrics": _openmetrics_head(instrument).encode(),
        }
        self.names = sample_names(instrument.name, instrument.kind)
        """The name of the metric, and those of its samples."""
        self._labels: dict[tuple[str, ...], str] = {}
        self._template = ""
        """The lines of a child; made from the first child, which has a histogram's bounds."""

    def texts(self, scrape: Scrape) -> Iterator[bytes]:
        """Yield the head of the family, then the lines of each child, read at one moment.

        Only the samples that ``scrape`` asks for; all of them if it has the name of the family.
        """
        yield self._heads[scrape.format]
        is_whole = not scrape.names or self._instrument.name in scrape.names
        asked = None if is_whole else only(scrape.names)
        for values, child in self._instrument.children():
            labels = self._labels.get(values)
            if labels is None:
                labels = self._labels[values] = _label_text(self._instrument.labels, values)
            template = self._template = self._template or _template(self._instrument, child)
            text = template.replace(_LABELS, labels) % _numbers(child)
            if asked is not None:
                text = "".join(filter(asked, text.splitlines(keepends=True)))
            yield text.encode()


def _head(instrument: Instrument[Any]) -> str:
    name = f"{instrument.name}_total" if instrument.kind == "counter" else instrument.name
    help_text = instrument.help_text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {help_text}\n# TYPE {name} {instrument.kind}\n"


def _openmetrics_head(instrument: Instrument[Any]) -> str:
    """Return the head with the name of the family: a counter has no ``_total`` there."""
    name, kind = instrument.name, str(instrument.kind)
    if name == _INFO:
        name, kind = "target", "info"
    return f"# HELP {name} {_escaped(instrument.help_text)}\n# TYPE {name} {kind}\n"


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
