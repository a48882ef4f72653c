"""A short run of the fuzzer of the HTTP port; ``make endurance`` runs it for longer."""

from __future__ import annotations

import pytest

from tests.endurance.fuzz.http import fuzz, statuses

_INPUTS = 4000


@pytest.mark.peers
def test_hostile_inputs_cause_no_error_of_the_server() -> None:
    """No input is answered 5xx, leaves its connection open, or causes an error in the log."""
    findings = fuzz(_INPUTS, seed=11, clients=2)

    assert sum(findings.statuses.values()) >= _INPUTS
    assert not findings.failures
    assert not findings.hangs
    assert not findings.errors


def test_the_fuzzer_detects_a_response_that_is_not_http() -> None:
    """A check that cannot fail would find nothing."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert statuses(answer + answer) == ["200", "200"]
    assert statuses(answer + b"{}") == ["200", "?"]
    assert statuses(b"HTTP/1.1 500 Internal Server Error\r\n\r\n") == ["500"]
