"""Keep secrets out of everything that is shown: reports, messages, the repr of settings.

A secret is what is typed as one (pydantic's SecretStr, SecretBytes, Secret), what is named as one
(``password``, ``DATABASE__PASSWORD``, ``api_key``), all that stands below such a name, and in any
text the password of a URL. In doubt more is masked, not less.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, get_args
from urllib.parse import unquote

from pydantic import AliasChoices, BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from gizmopy.config.duration import format_duration

MASK = "***"

_SECRET_TYPES = (SecretStr, SecretBytes, Secret)
_SECRET_WORDS = frozenset({"password", "passwd", "secret", "token", "key", "credentials", "dsn"})
_WORD_ENDS = re.compile(r"[^a-zA-Z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

# What stands before the password of a URL. Without a scheme, as in a list of hosts, the URL has to
# be the whole of a text without blanks.
_BEFORE_PASSWORD = re.compile(r"://[^:]*:|^[^\s:/@]+:(?!//)(?=\S*$)")
_PARAMETER = re.compile(r"""(?<![^?&;\s])([\w.-]+)\s*=\s*('[^']*'|"[^"]*"|[^&;\s]*)""")
_ONE_OF_SEVERAL = re.compile(r":([^:@]+)@")  # in a URL of several hosts


def is_secret_name(name: str) -> bool:
    """Return whether the last word of ``name`` says that its value is a secret."""
    return _WORD_ENDS.split(name)[-1].lower() in _SECRET_WORDS


def is_secret_field(name: str, field: FieldInfo) -> bool:
    """Return whether a model's field is a secret by its name or by an alias."""
    return any(map(is_secret_name, (name, *alias_names(field))))


def alias_names(field: FieldInfo) -> tuple[str, ...]:
    """Return every plain name other than its own by which a model takes ``field``."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return tuple(choice for choice in choices if isinstance(choice, str))


def holds_secret(annotation: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Return whether a value of this type is, or has somewhere in it, what is typed as a secret."""
    if hasattr(annotation, "__value__") and annotation not in seen:  # a type alias
        return holds_secret(annotation.__value__, seen | {annotation})
    if not isinstance(annotation, type):
        return any(holds_secret(inner, seen) for inner in get_args(annotation))
    if issubclass(annotation, _SECRET_TYPES):
        return True
    if not issubclass(annotation, BaseModel) or annotation in seen:
        return False
    fields = annotation.model_fields.values()
    return any(holds_secret(field.annotation, seen | {annotation}) for field in fields)


def mask_text(text: str) -> str:
    """Return ``text`` without the passwords of the URLs and the secret parameters in it."""
    if (place := _password(text)) is not None:
        text = f"{text[: place.start]}{MASK}{text[place.stop :]}"
    return _PARAMETER.sub(_mask_parameter, text)


def _password(text: str) -> slice | None:
    """Return where the password of a URL stands: up to the last ``@``.

    A password may hold any character that its writer forgot to escape. A pattern that ends in
    ``.*@`` would look for the last ``@`` again from each ``://``: quadratic.
    """
    found = _BEFORE_PASSWORD.search(text)
    end = -1 if found is None else text.rfind("@", found.end())
    return None if found is None or end < 0 else slice(found.end(), end)


def _mask_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}={MASK}" if is_secret_name(found[1]) else found[0]


def masked(value: Any, *, secret: bool = False) -> Any:
    """Return ``value`` as plain data (dicts, lists, numbers, text) with each secret masked.

    None and the empty text stay as they are: that a secret is not set is worth knowing.
    """
    if isinstance(value, _SECRET_TYPES):
        return masked(value.get_secret_value(), secret=True)
    if isinstance(value, Enum):
        return masked(value.value, secret=secret)
    if (items := _items(value)) is not None:
        return {name: masked(item, secret=secret or hidden) for name, item, hidden in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [masked(item, secret=secret) for item in value]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is None or (isinstance(value, str) and not value):
        return value
    return MASK if secret else _plain(value)


def show(value: Any, *, secret: bool = False) -> str:
    """Return ``value`` as one line of text, with each secret masked; None is the empty text."""
    plain = masked(value, secret=secret)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)


def secrets_in(value: Any, *, secret: bool = False) -> Iterator[str]:
    """Yield every text that must not be seen where a message speaks of ``value``."""
    if isinstance(value, _SECRET_TYPES):
        yield from secrets_in(value.get_secret_value(), secret=True)
    elif (items := _items(value)) is not None:
        for _, item, hidden in items:
            yield from secrets_in(item, secret=secret or hidden)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from secrets_in(item, secret=secret)
    elif isinstance(value, bytes):
        yield from secrets_in(value.decode(errors="replace"), secret=secret)
    elif secret and value is not None and not isinstance(value, bool):
        yield from _spellings(str(value))
    elif isinstance(value, str):
        yield from _secrets_in_text(value)


def _secrets_in_text(text: str) -> Iterator[str]:
    if (place := _password(text)) is not None:
        # The colon, since the password may be the first one of several hosts.
        several = _ONE_OF_SEVERAL.findall(text[place.start - 1 : place.stop + 1])
        for password in (text[place], *several):
            yield from _spellings(password)
    for found in _PARAMETER.finditer(text):
        if is_secret_name(found[1]):
            yield from _spellings(found[2].strip("'\""))


def _spellings(secret: str) -> Iterator[str]:
    """Yield a secret as it stands, as ``repr`` escapes it, and as a URL's reader decodes it."""
    yield from filter(None, {secret, repr(secret)[1:-1], unquote(secret)})


def _items(value: Any) -> list[tuple[str, Any, bool]] | None:
    """Return what a mapping or an object holds, and whether each is a secret; None for the rest."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return [
            (
                name,
                item,
                is_secret_field(name, fields[name]) if name in fields else is_secret_name(name),
            )
            for name, item in value
        ]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name), is_secret_name(name)) for name in names]
    if isinstance(value, Mapping):
        return [(str(key), item, is_secret_name(str(key))) for key, item in value.items()]
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, timedelta) and value >= timedelta(0):
        return format_duration(value)
    return mask_text(str(value))
