"""Say that there is a value, without the value: it is, or may be, a secret."""

from __future__ import annotations

from typing import Any

MASK = "***"


def length(value: Any) -> int:
    """Return the number of characters of a value; of a list or a table, of its text."""
    return len(value if isinstance(value, (str, bytes)) else str(value))


def hidden(characters: int, source: str = "") -> str:
    """Return ``*** (12 characters, from the environment)`` for a value that must not be shown.

    ``source`` is that of an origin: ``environment``, ``command line``, ``default``, a file's path.
    """
    named = f"the {source}" if source in ("environment", "command line", "default") else source
    count = "1 character" if characters == 1 else f"{characters} characters"
    return f"{MASK} ({count}{f', from {named}' if source else ''})"
