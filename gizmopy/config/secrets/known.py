"""List the secrets in settings, in each spelling, so that a log can mask them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from pydantic import BaseModel

from gizmopy.config.secrets.masking import SECRET_TYPES, is_secret_field, is_secret_name, secrets_in
from gizmopy.config.secrets.redaction import CHOICES, is_marked_field, literal_choices
from gizmopy.untrusted.text import escape

_MIN_CHARACTERS = 6
"""Shorter secrets are not masked, because other words contain the same letters."""
_MIN_LINE = 8


def known_secrets(settings: BaseModel | str, others: Iterable[Any] = ()) -> tuple[str, ...]:
    """Return the secrets of at least six characters in settings or in a URL, the longest first.

    A secret is a value with a type for secrets or with a name that is typical of one, a login in a
    URL, or a line of a secret of several lines. Each is returned as it is, and as ``repr``, JSON, a
    URL and a log line spell it. A marked field is not a secret because of its name (``TLS_KEY`` is
    a path), and neither is a choice. ``others`` are more values that are secrets.
    """
    more = chain.from_iterable(_secrets(value, secret=True) for value in others)
    found = {
        spelled
        for secret in chain(_secrets(settings, secret=False), more)
        if len(secret) >= _MIN_CHARACTERS
        for spelled in _spellings(secret)
    }
    return tuple(sorted(found, key=len, reverse=True))


def _secrets(value: Any, *, secret: bool) -> Iterator[str]:
    """Yield the secrets in ``value``; with ``secret``, every text in it is one."""
    if isinstance(value, SECRET_TYPES):
        yield from _secrets(value.get_secret_value(), secret=True)
    elif isinstance(value, BaseModel):
        yield from _secrets_of_model(value, secret=secret)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            is_secret = secret or is_secret_name(each.name)
            yield from _secrets(getattr(value, each.name), secret=is_secret)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, secret=secret or is_secret_name(str(key)))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _secrets(item, secret=secret)
    else:
        yield from _secrets_of_leaf(value, secret=secret)


def _secrets_of_model(model: BaseModel, *, secret: bool) -> Iterator[str]:
    fields = type(model).model_fields
    for name, item in model:
        if name not in fields:
            yield from _secrets(item, secret=secret or is_secret_name(name))
            continue
        # A choice is public, and often an ordinary word: if a setting auth="required" counted, the
        # log would mask every "required".
        if isinstance(item, CHOICES) or item in literal_choices(fields[name].annotation):
            continue
        is_secret = secret or is_secret_field(name, fields[name])
        yield from _secrets(item, secret=is_secret and not is_marked_field(type(model), name))


def _secrets_of_leaf(value: Any, *, secret: bool) -> Iterator[str]:
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
    """Yield each spelling of a secret, and of each of these: a log line escapes text again."""
    for once in _spelled(secret):
        yield from _spelled(once)


def _spelled(text: str) -> Iterator[str]:
    yield from (text, escape(text), repr(text)[1:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    for safe in ("", "/"):
        yield quote(text, safe, errors="replace")
        yield quote_plus(text, safe, errors="replace")
