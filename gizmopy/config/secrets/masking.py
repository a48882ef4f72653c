"""Know the usual names of secrets, and mask likely secrets in free text.

This is for flags and for free text, whose parts have no declarations: values that are named as a
secret, the login of a URL, a key in PEM. It is a list, and no list is complete. Values of settings
are shown by an allowlist instead: ``gizmopy.config.secrets.shown_fields``.
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
"""How a word of its own ends that is written together: ``dbpassword``, ``githubtoken``."""
_QUALIFIERS = frozenset(
    (
        *("b64", "base", "base64", "current", "data", "hex", "new", "old", "plain", "prev", "raw"),
        *("previous", "primary", "secondary", "string", "text", "value"),
    )
)
"""Words behind the one that counts: ``secret_key_base``, ``password_old``, ``token_2``."""

_NAME = re.compile(r"""(?<![\w.-])([\w.-]++)["']?\s{0,4}+[=:]\s{0,4}+""")
_VALUE = re.compile(r"""'[^']*+'|"[^"]*+"|[^&;\s]*+""")
_SCHEMES = re.compile(r"\b(bearer|basic|digest)\s++[^\s,;]++", re.IGNORECASE)
_PEM = "-----BEGIN "
_PEM_END = re.compile(r"-----END [^-\n]{1,64}+-----")


def is_secret_name(name: str) -> bool:
    """Return whether ``name`` is one of the usual ones for a secret: ``db_pass``, ``api-key``."""
    words = [*_words(name)]
    pair = "".join(words[-2:])  # as in api_key, pass_word or connection_string
    while len(words) > 1 and (words[-1] in _QUALIFIERS or words[-1].isdigit()):
        words.pop()
    if not words:
        return False
    last = words[-1].rstrip("0123456789")
    endings = (last, last.removesuffix("s"), pair)
    return any(each in _SECRET_WORDS or each.endswith(_SECRET_ENDINGS) for each in endings)


def _words(name: str) -> Iterator[str]:
    """Yield the words of ``name`` in lower case, split at signs and before upper case letters."""
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
    if issubclass(annotation, SECRET_TYPES):
        return True
    if not issubclass(annotation, BaseModel) or annotation in seen:
        return False
    fields = annotation.model_fields.values()
    return any(holds_secret(field.annotation, seen | {annotation}) for field in fields)


def mask_text(text: str) -> str:
    """Return ``text`` without likely secrets: logins of URLs, named values, PEM keys."""
    text = _SCHEMES.sub(rf"\1 {MASK}", mask_login(_mask_pem(text)))
    parts, at = [], 0
    while found := _NAME.search(text, at):
        parts.append(text[at : found.end()])
        at = found.end()
        if is_secret_name(found[1]):
            value = _VALUE.match(text, at)
            assert value is not None  # it matches the empty text, too
            parts.append(MASK if value[0] else "")
            at = value.end()
    return "".join((*parts, text[at:]))


def secrets_in(text: str) -> Iterator[str]:
    """Yield the likely secrets in a URL or a list of parameters: logins and named values."""
    yield from logins_in(text)
    at = 0
    while found := _NAME.search(text, at):
        at = found.end()
        if is_secret_name(found[1]):
            value = _VALUE.match(text, at)
            assert value is not None
            yield value[0].strip("'\"")
            at = value.end()


def _mask_pem(text: str) -> str:
    before, begin, rest = text.partition(_PEM)
    if not begin:
        return text
    ends = [*_PEM_END.finditer(rest)]
    return f"{before}{MASK}{rest[ends[-1].end() :] if ends else ''}"
