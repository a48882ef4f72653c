"""Say where a setting came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Say where a value came from, and by which name."""

    source: str
    """``environment``, ``command line``, the path of a file, or ``default``."""
    name: str = ""
    secret: bool = False
    """Whether ``${NAME}`` of a name like a secret's was in it: then it is never shown."""

    def __str__(self) -> str:
        return f"{self.source} {self.name}".rstrip()
