"""Marks that a field's declaration has besides its type, in Annotated."""

from __future__ import annotations


class Shown:
    """Mark a field whose value is no secret: ``region: Annotated[str, Shown]``."""


class NamesCode:
    """Mark a field whose value names code to import: it is not taken from ``.env``."""
