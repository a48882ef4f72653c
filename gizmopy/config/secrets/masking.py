"""Recognize names that are typical of secrets, and mask likely secrets in free text.

Flags and free text have no declarations, so this goes by a list: values with the name of a secret,
the login of a URL, a key in PEM. A list is never complete. For values of settings an allowlist
decides instead: ``gizmopy.config.secrets.redaction``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from gizmopy.config.urls import logins_in, mask_login
from gizmopy.untrusted.hidden import MASK

SECRET_TYPES = (SecretStr, SecretBytes, Secret)

_SECRET_WORDS = frozenset(
    (
        *("accesskey", "apikey", "auth", "authorization", "authtoken", "bearer", "cookie", "cred"),
        *("credential", "dsn", "hmac", "jwt", "key", "otp", "pass", "passcode"),
        *("passphrase", "passwd", "password", "pem", "pin", "privatekey", "psk", "pw"),
        *("pwd", "salt", "sas", "secret", "secretkey", "sessionid", "sid", "sig"),
        *("signature", "signingkey", "ssn", "token", "webhook", "connectionstring"),
    )
)
_SECRET_ENDINGS = ("credential", "passphrase", "passwd", "password", "secret", "token", "apikey")
"""Endings of compound words: ``dbpassword``, ``githubtoken``."""
_QUALIFIERS = frozenset(
    (
        *("b64", "base", "base64", "current", "data", "hex", "new", "old", "plain", "prev", "raw"),
        *("previous", "primary", "secondary", "string", "text", "value"),
    )
)
"""Words that may follow the word for a secret: ``secret_key_base``, ``password_old``."""

_NAME = re.compile(r"""(?<![\w.-])([\w.-]++)["']?\s{0,4}+[=:]\s{0,4}+""")
_VALUE = re.compile(r"""'[^']*+'|"[^"]*+"|[^&;\s]*+""")
_SCHEMES = re.compile(r"\b(bearer|basic|digest)\s++[^\s,;]++", re.IGNORECASE)
_PEM = "-----BEGIN "
_PEM_END = re.compile(r"-----END [^-\n]{1,64}+-----")


def is_secret_name(name: str) -> bool:
    """Return whether ``name`` is typical of a secret: ``db_pass``, ``api-key``."""
    words = [*_words(name)]
    pair = "".join(words[-2:])  # api_key, pass_word, connection_string
    while len(words) > 1 and (words[-1] in _QUALIFIERS or words[-1].isdigit()):
        words.pop()
    if not words:
        return False
    last = words[-1].rstrip("0123456789")
    endings = (last, last.removesuffix("s"), pair)
    return any(each in _SECRET_WORDS or each.endswith(_SECRET_ENDINGS) for each in endings)


def _words(name: str) -> Iterator[str]:
    """Yield the words of ``name`` in lower case, split at signs and before capital letters."""
    word, before = "", ""
    for character in name:
        if not character.isalnum():
            if word:
                yield word.lower()
            word = ""
        elif character.isupper() and (before.islower() or before.isdigit()):
            if word:
                yield word.lower()
            word = character
        else:
            word += character
        before = character
    if word:
        yield word.lower()


def is_secret_field(name: str, field: FieldInfo) -> bool:
    """Return whether the name or an alias of a field is typical of a secret."""
    return any(map(is_secret_name, (name, *alias_names(field))))


def alias_names(field: FieldInfo) -> tuple[str, ...]:
    """Return the aliases of ``field`` in the input of its model, without alias paths."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return tuple(choice for choice in choices if isinstance(choice, str))


def holds_secret(annotation: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Return whether a value of this type has a type for secrets, itself or in a part of it."""
    if hasattr(annotation, "__value__") and annotation not in seen:  # a type alias
        return holds_secret(annotation.__value__, seen | {annotation})
    if not isinstance(annotation, type):
        return any(holds_secret(inner, seen) for inner in get_args(annotation))
    if issubclass(annotation, SECRET_TYPES):
        return True
    if not issubclass(annotation, BaseModel) or annotation in seen:
        return False
    fields = annotation.model_fields.values()
    return any(holds_secret(field.annotation, seen | {annotation}) for field in fields)


def mask_text(text: str) -> str:
    """Return ``text`` with likely secrets masked: logins of URLs, named values, PEM keys."""
    text = _SCHEMES.sub(rf"\1 {MASK}", mask_login(_mask_pem(text)))
    parts, end = [], 0
    for value in _named_secrets(text):
        parts += [text[end : value.start()], MASK if value[0] else ""]
        end = value.end()
    return "".join((*parts, text[end:]))


def secrets_in(text: str) -> Iterator[str]:
    """Yield the likely secrets in a URL or a list of parameters: logins and named values."""
    yield from logins_in(text)
    for value in _named_secrets(text):
        yield value[0].strip("'\"")


def _named_secrets(text: str) -> Iterator[re.Match[str]]:
    """Yield the value of each ``name=value`` and ``name: value`` if the name is for a secret.

    A value of another name is searched for more names: ``url=https://host/?token=…``.
    """
    end = 0
    while found := _NAME.search(text, end):
        end = found.end()
        if is_secret_name(found[1]):
            value = _VALUE.match(text, end)
            assert value is not None  # the pattern also matches the empty text
            end = value.end()
            yield value


def _mask_pem(text: str) -> str:
    before, begin, rest = text.partition(_PEM)
    if not begin:
        return text
    ends = [*_PEM_END.finditer(rest)]
    return f"{before}{MASK}{rest[ends[-1].end() :] if ends else ''}"
