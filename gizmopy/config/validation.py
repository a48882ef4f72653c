"""Refuse a value with a remedy that reaches the person who wrote it."""

from __future__ import annotations

from pydantic_core import PydanticCustomError


def refusal(reason: str, remedy: str) -> PydanticCustomError:
    """Return the ValueError for a validator to raise: ``load`` shows its two parts on their own."""
    return PydanticCustomError(
        "refused", "{reason}; {remedy}", {"reason": reason, "remedy": remedy}
    )
