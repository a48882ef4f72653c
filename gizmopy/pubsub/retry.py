"""Compute the wait before a retry: exponential backoff with full jitter, as a pure value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gizmopy.errors import UsageError, seconds_from
from gizmopy.untrusted.durations import DurationLike


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """Try ``attempts`` times, up to ``base * factor ** n`` apart, at most ``cap``.

    ``base`` and ``cap`` are numbers of seconds, texts such as ``500ms``, or timedeltas; as
    attributes they are seconds.

    The wait is drawn evenly between zero and that bound (full jitter), so that clients which failed
    together do not retry together. Raises UsageError if a value is out of range.
    """

    attempts: int
    base: float
    factor: float
    cap: float

    def __init__(
        self,
        attempts: int = 3,
        base: DurationLike = 0.1,
        factor: float = 2.0,
        cap: DurationLike = 30.0,
    ) -> None:
        for name, value in (
            ("attempts", attempts),
            ("base", seconds_from("RetryPolicy(base=)", base)),
            ("factor", factor),
            ("cap", seconds_from("RetryPolicy(cap=)", cap)),
        ):
            object.__setattr__(self, name, value)  # it is frozen
        self._check()

    def _check(self) -> None:
        numbers: tuple[Any, ...] = (self.attempts, self.base, self.factor, self.cap)
        if not all(isinstance(each, (int, float)) and isfinite(each) for each in numbers):
            raise UsageError(f"{self!r}: use finite numbers")
        if self.attempts < 1:
            raise UsageError(f"RetryPolicy(attempts={self.attempts}): use 1 (no retry) or more")
        if self.base < 0 or self.cap < 0:
            reason = "use seconds of 0 or more"
            raise UsageError(f"RetryPolicy(base={self.base}, cap={self.cap}): {reason}")
        if self.factor < 1:
            raise UsageError(f"RetryPolicy(factor={self.factor}): use 1 or more")

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the seconds to wait after the failed attempt number ``attempt``, counted from 1.

        ``random`` returns a number from 0 up to 1, as ``random.random`` does.
        """
        try:
            bound = self.base * self.factor ** (attempt - 1)
        except OverflowError:  # a message that is retried forever
            bound = self.cap
        return random() * min(self.cap, bound)
