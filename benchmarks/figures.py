"""Print figures with their spread, beside their targets."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import median
from typing import NamedTuple


class Target(NamedTuple):
    """The least and the most that a figure should be."""

    least: float = 0.0
    most: float = inf

    def __str__(self) -> str:
        if not self.least:
            return f"≤ {self.most:g}"
        return f"≥ {self.least:g}" if self.most == inf else f"{self.least:g} to {self.most:g}"

    def judge(self, figures: Sequence[float]) -> str:
        """Return the target, and whether the median of ``figures`` meets it."""
        met = self.least <= median(figures) <= self.most
        return f"({self}: {'met' if met else 'MISSED'})"


def spread(figures: Sequence[float]) -> str:
    """Return the median of ``figures``, the lowest and the highest."""
    return f"{median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"
