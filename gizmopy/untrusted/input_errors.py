"""Describe the errors in a request or a message without the values that its sender chose.

The path of a field contains the keys of a dict, which the sender chose. The message of a validator
may quote the value. Both are escaped and cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gizmopy.untrusted.missing_fields import ABSENT
from gizmopy.untrusted.text import cut, escape

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, ValidationError

# Replacements for the messages of pydantic that quote the input, by the type of the error.
_MESSAGES: Mapping[str, str] = {
    "base64_decode": "Input should be valid base64",
    "byte_size_unit": "Input should be a number of bytes with a unit, such as 10MB",
    "color_error": "Input should be a valid color",
    "import_error": "Input should be the path of an object, such as package.module:name",
    "union_tag_invalid": "Input should have one of the tags {expected_tags} as {discriminator}",
    "uuid_parsing": "Input should be a valid UUID",
    "zoneinfo_str": "Input should be a valid time zone, such as Europe/Berlin",
}
_EMAIL = "value is not a valid email address"


def details_of(error: ValidationError) -> list[ErrorDetails]:
    """Return pydantic's errors, one for each wrong value, without the values."""
    details = error.errors(include_url=False)
    for each in details:
        if each["input"] is ABSENT:
            each |= {"type": "missing", "msg": "Field required"}
        each["input"] = None
    return details


def message_of(error: ErrorDetails) -> str:
    """Return the message of one of pydantic's errors, without the input.

    The message of a validator of the user's may quote it.
    """
    template = _MESSAGES.get(error["type"])
    if template is not None:
        return cut(template.format_map(_Known(error.get("ctx", {}))))
    if error["msg"].startswith(_EMAIL):  # the rest quotes characters of the address
        return _EMAIL
    return escape(cut(error["msg"]))


def field_of(location: Sequence[int | str]) -> str:
    """Return the path of a field: ``pets.0.name``."""
    return escape(cut(".".join(map(str, location))))


class _Known(dict[str, object]):
    """The values of a message's template; a missing value is replaced by its name."""

    def __missing__(self, key: str) -> str:
        return key.replace("_", " ")
