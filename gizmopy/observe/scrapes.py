"""Read from a request which metrics it asks for, in which format and coding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

Format = Literal["text", "openmetrics"]
CONTENT_TYPES: dict[Format, str] = {
    "text": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}

_FORMATS: dict[str, tuple[Format, frozenset[str]]] = {
    "application/openmetrics-text": ("openmetrics", frozenset({"", "1.0.0"})),
    "text/plain": ("text", frozenset({"", "0.0.4"})),
    "text/*": ("text", frozenset({""})),
    "*/*": ("text", frozenset({""})),
}
"""The format of each media range, and the versions of it that are served."""
_TOTAL = ("_total", "_created")
_SUFFIXES = {
    "counter": _TOTAL,
    "summary": ("_sum", "_count", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "info": ("_info",),
}


class Scrape(NamedTuple):
    """What a scrape asks for."""

    format: Format = "text"
    names: frozenset[str] = frozenset()
    """The names of metrics or of their samples; none: everything."""

    def takes(self, names: Iterable[str]) -> bool:
        """Return whether the scrape asks for one of the names."""
        return not self.names or not self.names.isdisjoint(names)


def sample_names(name: str, kind: str) -> tuple[str, ...]:
    """Return the name of a metric and those that its samples may have."""
    return (name, *[f"{name}{suffix}" for suffix in _SUFFIXES.get(kind, ())])


def negotiated_format(accept: str) -> Format:
    """Return the format that an ``Accept`` header prefers: the highest q, then the first.

    As with Prometheus' own clients, a header that allows neither gets the text format, never 406:
    a scrape with a strange header is better answered than lost.
    """
    best: Format = "text"
    best_quality = 0.0
    for media, parameters in _elements(accept):
        format_, versions = _FORMATS.get(media, ("text", frozenset()))
        quality = _quality(parameters)
        if parameters.get("version", "") in versions and quality > best_quality:
            best, best_quality = format_, quality
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an ``Accept-Encoding`` header allows gzip, and does not prefer identity."""
    qualities = {coding: _quality(each) for coding, each in _elements(accept_encoding)}
    either = qualities.get("*", 0.0)
    gzip = qualities.get("gzip", qualities.get("x-gzip", either))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _elements(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the elements of a header in lower case, each with its parameters (RFC 9110, 5.6)."""
    for element in header.lower().split(","):
        value, *parameters = [part.strip() for part in element.split(";")]
        pairs = [part.partition("=") for part in parameters]
        yield value, {name.strip(): text.strip().strip('"') for name, _, text in pairs}


def _quality(parameters: dict[str, str]) -> float:
    """Return q, from 0 to 1; one that is no number counts as 1, as for Prometheus in Go."""
    text = parameters.get("q", "1")
    try:
        quality = float(text)
    except ValueError:
        return 1.0
    return min(max(quality, 0.0), 1.0) if quality == quality else 0.0  # NaN is not equal to itself


def only(names: frozenset[str]) -> Callable[[str], bool]:
    """Return a test whether a line of text is a sample with one of ``names``."""
    starts = tuple([f"{name}{end}" for name in names for end in "{ "])
    return lambda line: line.startswith(starts)
