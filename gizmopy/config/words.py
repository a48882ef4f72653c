"""Lists of words, as variables, flags and URLs write them: with commas between."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def split(value: object) -> object:
    """Return a list of what commas separate; what is no text is returned as it is."""
    if not isinstance(value, str):
        return value
    return [item for item in (part.strip() for part in value.split(",")) if item]


Words = Annotated[tuple[str, ...], BeforeValidator(split)]
