"""Marks that a field's declaration has besides its type, in Annotated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Shown:
    """Mark a field whose value is no secret: ``region: Annotated[str, Shown]``."""


class NamesCode:
    """Mark a field whose value names code to import: it is not taken from ``.env``."""


def has_mark(marks: Iterable[Any], kind: type) -> bool:
    """Return whether ``kind`` or an instance of it is among the marks of an annotation."""
    return any(mark is kind or isinstance(mark, kind) for mark in marks)
