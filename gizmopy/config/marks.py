"""What a field's declaration says of it besides its type: marks in Annotated."""

from __future__ import annotations


class Shown:
    """Mark a field whose value is no secret: ``region: Annotated[str, Shown]``."""


class NamesCode:
    """Mark a field whose value names code to import: it is not taken from ``.env``."""
