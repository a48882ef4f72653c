"""Stand-ins for a value that is or may be a secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

MASK = "***"


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` with ``***`` in place of each of ``secrets``; give the longest first."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def describe_size(value: Any) -> str:
    """Return the length of a value in words: ``12 characters``, ``2 items``."""
    if isinstance(value, (Mapping, list, tuple, Set)):
        return f"{len(value)} item{'' if len(value) == 1 else 's'}"
    count = len(value if isinstance(value, (str, bytes, bytearray)) else str(value))
    return f"{count} character{'' if count == 1 else 's'}"


def placeholder(size: str, source: str = "") -> str:
    """Return ``*** (12 characters, from the environment)`` for a value that must not be shown.

    ``source`` is ``environment``, ``command line``, ``default`` or the path of a file.
    """
    named = f"the {source}" if source in ("environment", "command line", "default") else source
    return f"{MASK} ({size}{f', from {named}' if source else ''})"
