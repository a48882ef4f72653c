"""List the secrets among the settings, in each spelling, so that a text can be cleared of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from pydantic import BaseModel

from gizmopy.config.secrets.masking import SECRET_TYPES, is_secret_field, is_secret_name, secrets_in
from gizmopy.config.secrets.shown_fields import CHOICES, choices, is_marked_field
from gizmopy.untrusted.text import escape

_MIN_CHARACTERS = 6
"""Shorter secrets are not looked for: the same letters stand in other words."""
_MIN_LINE = 8


def known_secrets(settings: BaseModel | str) -> tuple[str, ...]:
    """Return the secrets in settings or in a URL, the longest first: of at least six characters.

    These are values typed as secrets or named like one, logins in URLs, and each line of a secret
    of several lines, as they are and as ``repr``, JSON, a URL and a log line spell them. A field
    that is marked is no secret for its name (``TLS_KEY`` is a path), and neither is a choice.
    """
    found = {
        spelled
        for secret in _secrets(settings, secret=False)
        if len(secret) >= _MIN_CHARACTERS
        for spelled in _spellings(secret)
    }
    return tuple(sorted(found, key=len, reverse=True))


def _secrets(value: Any, *, secret: bool) -> Iterator[str]:
    if isinstance(value, SECRET_TYPES):
        yield from _secrets(value.get_secret_value(), secret=True)
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        for name, item in value:
            if name not in fields:
                yield from _secrets(item, secret=secret or is_secret_name(name))
            elif isinstance(item, CHOICES) or item in choices(fields[name].annotation):
                continue  # masked in every line, auth="required" would hide a word of many
            else:
                hidden = secret or is_secret_field(name, fields[name])
                yield from _secrets(item, secret=hidden and not is_marked_field(type(value), name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            hidden = is_secret_name(each.name)
            yield from _secrets(getattr(value, each.name), secret=secret or hidden)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, secret=secret or is_secret_name(str(key)))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _secrets(item, secret=secret)
    else:
        yield from _of_leaf(value, secret=secret)


def _of_leaf(value: Any, *, secret: bool) -> Iterator[str]:
    if value is None or isinstance(value, (bool, float)):
        return
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if secret:
        yield text
        yield from (line for line in text.splitlines() if len(line) >= _MIN_LINE)
    elif not isinstance(value, int):
        for found in secrets_in(text):
            yield from (found, unquote(found))


def _spellings(secret: str) -> Iterator[str]:
    """Yield a secret as texts spell it, and each of these as a log line spells it again."""
    for once in _spelled(secret):
        yield from _spelled(once)


def _spelled(text: str) -> Iterator[str]:
    yield from (text, escape(text), repr(text)[1:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    for safe in ("", "/"):
        yield quote(text, safe, errors="replace")
        yield quote_plus(text, safe, errors="replace")
