"""The trace context of a message: which fields are propagated, and which are dropped."""

from __future__ import annotations

import pytest

from gizmopy.observe.trace import trace_context

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_valid_trace_context_is_propagated_unchanged() -> None:
    """Both fields are returned, and no other."""
    attributes = {"traceparent": VALID, "tracestate": "rojo=1,\tcongo=t61 rc", "a": "b"}
    passed = {"traceparent": VALID, "tracestate": "rojo=1,\tcongo=t61 rc"}
    assert trace_context(attributes) == passed


def test_without_traceparent_there_is_no_trace_context() -> None:
    """A tracestate alone is dropped."""
    assert trace_context({"tracestate": "rojo=1"}) == {}


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f" 00-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"FE-{TRACE}-{PARENT}-01",
        f"0.-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0x",
        f"00-{TRACE[:-1]}\u0663-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01more",
        f"cc-{TRACE}-{PARENT}-01-{'x' * 1000}",
    ],
)
def test_an_invalid_traceparent_is_dropped_with_its_tracestate(traceparent: str) -> None:
    """It is not an error."""
    assert trace_context({"traceparent": traceparent, "tracestate": "rojo=1"}) == {}


@pytest.mark.parametrize("flags", ["00", "01", "02", "ff"])
def test_any_flags_are_valid(flags: str) -> None:
    """Flags are two hexadecimal digits."""
    traceparent = f"00-{TRACE}-{PARENT}-{flags}"
    assert trace_context({"traceparent": traceparent}) == {"traceparent": traceparent}


@pytest.mark.parametrize("suffix", ["", "-", "-what-the-future-will-be-like"])
def test_a_higher_version_is_propagated_unchanged(suffix: str) -> None:
    """The parts that every version has are validated; the rest is kept."""
    traceparent = f"cc-{TRACE}-{PARENT}-01{suffix}"
    assert trace_context({"traceparent": traceparent}) == {"traceparent": traceparent}


@pytest.mark.parametrize("tracestate", ["", "a=1\r\nx: y", "a=ä", "a=" + "1" * 511])
def test_an_invalid_tracestate_is_dropped_alone(tracestate: str) -> None:
    """The traceparent is kept."""
    attributes = {"traceparent": VALID, "tracestate": tracestate}
    assert trace_context(attributes) == {"traceparent": VALID}


def test_a_tracestate_of_512_characters_is_propagated() -> None:
    """The specification asks for at least that many."""
    attributes = {"traceparent": VALID, "tracestate": "a=" + "1" * 510}
    assert trace_context(attributes) == attributes
