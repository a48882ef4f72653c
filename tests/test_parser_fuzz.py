"""A short run of the fuzzer of parsers; ``make endurance`` has the long one."""

from __future__ import annotations

from hypothesis import strategies as st

from gizmopy.errors import UndecodableMessage
from tests.endurance.fuzz.parsers import Findings, examine, fuzz
from tests.linear_time.parsers import PARSERS

_EXAMPLES = 8


def test_random_text_raises_only_what_is_documented() -> None:
    """Parsers, codecs and Kafka records raise only errors that their callers handle."""
    names = []
    for name, findings in fuzz(_EXAMPLES, seed_=11):
        assert not findings.errors
        assert findings.read[name] + findings.refused[name] >= 1
        names.append(name)

    assert len(names) > len(PARSERS)
    assert len(set(names)) == len(names)


def test_the_fuzzer_finds_an_error_that_is_not_documented() -> None:
    """An undocumented error is reported, with the shortest input that raises it."""

    def parse(text: str) -> None:
        if "9" in text:
            raise KeyError(text)
        raise UndecodableMessage("no")

    findings = Findings()
    examine(findings, "parse", parse, st.text("0189"), (UndecodableMessage,), 1000, 0)

    assert findings.errors == {"parse": "KeyError: '9' for '9'"}
    assert findings.refused["parse"] > 0
