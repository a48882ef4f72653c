"""``gizmopy redrive CHANNEL``: the short form of ``gizmopy dead-letters redrive CHANNEL``."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.cli import dead_letters


def main(argv: Sequence[str]) -> int:
    """Move dead letters, and return the exit code of ``gizmopy dead-letters redrive``."""
    return dead_letters.run("redrive", argv, prog="gizmopy redrive")
