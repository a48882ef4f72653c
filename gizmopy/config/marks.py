"""Marks for the declaration of a field, in ``Annotated``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Shown:
    """Mark a field whose value is not a secret: ``region: Annotated[str, Shown]``."""


class NamesCode:
    """Mark a field whose value names code to import: a value in ``.env`` is an error."""


def has_mark(marks: Iterable[Any], kind: type) -> bool:
    """Return whether ``kind`` or an instance of it is among the marks of an annotation."""
    return any(mark is kind or isinstance(mark, kind) for mark in marks)
