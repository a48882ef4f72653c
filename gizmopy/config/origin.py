"""The origin of a setting's value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a value, and its name there."""

    source: str
    """``environment``, ``command line``, the path of a file, or ``default``."""
    name: str = ""
    secret: bool = False
    """Whether the value contains a ``${NAME}`` whose name is typical of a secret: then it is never
    shown."""

    def __str__(self) -> str:
        return f"{self.source} {self.name}".rstrip()
