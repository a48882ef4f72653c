"""Building blocks of validators: errors with a remedy, and lists with commas."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

ERROR_TYPE = "refused"
"""The type of every error that ``validation_error`` returns."""


def validation_error(reason: str, remedy: str) -> PydanticCustomError:
    """Return a ValueError for a validator to raise.

    ``load`` shows ``reason`` and ``remedy`` apart; neither may quote a value that may be a secret.
    """
    return PydanticCustomError(
        ERROR_TYPE, "{reason}; {remedy}", {"reason": reason, "remedy": remedy}
    )


def comma_list(value: object) -> object:
    """Return the items of a text that are separated by commas; any other value unchanged."""
    if not isinstance(value, str):
        return value
    return [item for item in (part.strip() for part in value.split(",")) if item]


CommaList = Annotated[tuple[str, ...], BeforeValidator(comma_list)]
"""A list of texts that variables, flags and URLs write with commas."""
