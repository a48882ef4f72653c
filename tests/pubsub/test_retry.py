"""The retry policy: a pure value."""

from __future__ import annotations

from typing import Any

import pytest

from gizmopy.errors import UsageError
from gizmopy.pubsub import RetryPolicy


def test_delays_grow_by_the_factor_up_to_the_cap() -> None:
    """The bound doubles until it reaches the cap."""
    policy = RetryPolicy(base=0.1, factor=2, cap=0.5)
    assert [policy.delay(n, lambda: 1.0) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.5]


def test_the_jitter_is_full() -> None:
    """The delay may be any part of the bound, including zero."""
    policy = RetryPolicy(base=8)
    assert policy.delay(1, lambda: 0.0) == 0
    assert policy.delay(1, lambda: 0.25) == 2


def test_a_message_that_is_retried_forever_does_not_overflow() -> None:
    """The millionth attempt waits for the cap."""
    assert RetryPolicy(factor=10).delay(1_000_000, lambda: 1.0) == 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attempts": 0}, "use 1"),
        ({"base": -1}, "0 or more"),
        ({"cap": -1}, "0 or more"),
        ({"factor": 0.5}, "use 1 or more"),
    ],
)
def test_invalid_values_are_refused(options: dict[str, Any], reason: str) -> None:
    """The error names the value and the remedy."""
    with pytest.raises(UsageError, match=reason):
        RetryPolicy(**options)
