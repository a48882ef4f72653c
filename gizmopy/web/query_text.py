"""Refuse a query whose bytes are not UTF-8, which yarl would replace by U+FFFD."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

from gizmopy.untrusted.text import is_utf8
from gizmopy.web.problems import FieldError, field_error, validation_problem

_MESSAGE = "Input should be encoded as UTF-8"
_MAX_ERRORS = 100
"""The most wrong names and values that are listed."""
_HIGH_BYTE = re.compile("%[89A-Fa-f][0-9A-Fa-f]").search


def check_query(raw: str) -> None:
    """Raise Problem (422) if a name or a value of the percent-encoded query ``raw`` is not UTF-8.

    A query with a wrong name is refused, too: the name may be that of a parameter, which would get
    its default. Bytes that are not UTF-8 must not become others: two names, or two keys of a
    database, could become one.
    """
    # No sequence of UTF-8 contains an ASCII character, such as the & between two pairs. So the
    # query is UTF-8 if all of its names and values are.
    if _HIGH_BYTE(raw) is None or is_utf8(unquote_to_bytes(raw)):
        return
    errors: list[FieldError] = []
    for pair in raw.split("&"):
        if len(errors) < _MAX_ERRORS and not is_utf8(unquote_to_bytes(pair)):
            name = unquote(pair.partition("=")[0].replace("+", " "), errors="backslashreplace")
            errors.append(field_error("query", name, _MESSAGE, "string_unicode"))
    raise validation_problem(errors)
