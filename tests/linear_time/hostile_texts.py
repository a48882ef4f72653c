"""Texts that make some parsers slow, and the time that a parser takes for them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gizmopy.errors import GizmoError
from gizmopy.web import Problem

Run = Callable[[str], object]

SHORT, LONG = 4096, 16384
"""The lengths whose times are compared, in characters."""
MAX_RATIO = 6.0
"""How much longer the long text may take: 4 is linear, 16 is quadratic."""
FLOOR = 1e-3
"""Seconds of CPU for the long text that are always accepted: 60 ns for each character."""
_LADDER = range(8, 201, 16)
_MAX_STEP = 0.05
"""Seconds of CPU that a text on the ladder may take: a thousand times the expected."""
_CLEAR = 0.1
"""Seconds of CPU from which one more measurement is enough: noise is far below."""
_REFUSALS = (ValueError, LookupError, GizmoError, Problem)


class Hostile(NamedTuple):
    """A text of any length: ``head``, as many ``pump`` as fit, ``tail``."""

    head: str
    pump: str
    tail: str = ""

    def text(self, length: int) -> str:
        """Return the text of about ``length`` characters."""
        room = length - len(self.head) - len(self.tail)
        return self.head + self.pump * max(room // len(self.pump), 1) + self.tail


class Times(NamedTuple):
    """Seconds of CPU for the short and the long text."""

    hostile: Hostile
    short: float
    long: float

    @property
    def ratio(self) -> float:
        """How many times the long text takes the time of the short one, above the floor."""
        return self.long / max(self.short, FLOOR / 4) if self.long > FLOOR else 0.0


def pumps(*texts: str, head: str = "", tails: Sequence[str] = ("", "!")) -> list[Hostile]:
    """Return a hostile text for each pump and each tail."""
    return [Hostile(head, pump, tail) for pump in texts for tail in tails]


ANYWHERE = pumps(*"aA0_-.:/@=&;,%{}[]()'\"\\ \t\né\x00", "a.", "a,", "=;", "://", "%25")
"""Texts for every parser, in addition to its own."""


def measure(run: Run, hostile: Hostile, runs: int = 1) -> Times:
    """Return the least times of ``runs`` runs. Raises AssertionError if they grow exponentially.

    A text that takes exponential time would hang the test. So the first texts are short, and each
    is a little longer than the one before.
    """
    for length in _LADDER:
        text = hostile.text(length)
        taken = _seconds(run, text)
        if taken >= _MAX_STEP:  # another process may have run meanwhile
            taken = min(taken, _seconds(run, text))
        assert taken < _MAX_STEP, f"{hostile}: {taken:.3f} s for {len(text)} characters"
    times = Times(hostile, 0.0, _least(run, hostile, LONG, runs))
    if times.long > FLOOR:
        # Always more than once: noise in the short time hides a quadratic one.
        times = times._replace(short=_least(run, hostile, SHORT, runs + 1))
    return times


def _least(run: Run, hostile: Hostile, length: int, runs: int) -> float:
    """Return the least CPU time of some runs.

    The texts differ in length, because parsers of URLs remember the last texts.
    """
    texts = (hostile.text(length + more * len(hostile.pump)) for more in range(runs))
    return min(_seconds(run, text) for text in texts)


def _seconds(run: Run, text: str) -> float:
    gc.disable()  # a collection would visit all objects of the tests
    began = time.process_time()
    try:
        run(text)
    except _REFUSALS:
        pass
    finally:
        taken = time.process_time() - began
        gc.enable()
    return taken


def worst(run: Run, hostiles: Sequence[Hostile]) -> Times:
    """Return the times of the text that fails, or else takes longest.

    Each text is measured once. A failure is measured again, up to four times; once if the times are
    so long that noise matters little.
    """
    slowest = Times(hostiles[0], 0.0, 0.0)
    for hostile in hostiles:
        times = measure(run, hostile)
        attempts = 0
        most = 4 if times.long < _CLEAR else 1
        while times.ratio > MAX_RATIO and attempts < most:
            again = measure(run, hostile, runs=3)
            times = min(times, again, key=lambda each: each.ratio)
            attempts += 1
        if times.ratio > MAX_RATIO:
            return times
        slowest = max(slowest, times, key=lambda each: each.long)
    return slowest
