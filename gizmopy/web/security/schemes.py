"""Read the credentials of a request, and challenge a request that has none: RFC 6750 and 7617.

Each scheme tells absent credentials from malformed ones. A text that cannot be credentials never
reaches a checker: it is empty, longer than ``MAX_CHARACTERS``, not Unicode, or sent twice.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from aiohttp import web
from multidict import istr

from gizmopy.untrusted.text import is_unicode
from gizmopy.web.cookies import cookies_of

MAX_CHARACTERS = 8192
"""The longest credentials that a checker is given; the tokens of large directories have 5,000."""

Location = Literal["header", "query", "cookie"]

_AUTHORIZATION = istr("Authorization")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


class MalformedCredentials(Exception):
    """The credentials of a request have the wrong form; the text is for the client."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Scheme(Protocol):
    """A way to send credentials."""

    parameters: ClassVar[tuple[str, ...]]
    """The names of the texts that a checker is given, for error messages."""

    def read(self, request: web.Request) -> tuple[str, ...] | None:
        """Return the credentials of a request; None if it has none of this scheme.

        Raises MalformedCredentials.
        """

    def challenge(self, realm: str, error: str = "") -> str:
        """Return a value of ``WWW-Authenticate``; ``error`` is a code of RFC 6750 section 3.1."""

    def document(self) -> dict[str, str]:
        """Return the Security Scheme Object of OpenAPI."""

    @property
    def request_text(self) -> str:
        """Describe the missing credentials: ``a bearer token``."""


@dataclass(frozen=True, slots=True)
class HTTPBearer:
    """A token in ``Authorization: Bearer`` (RFC 6750)."""

    realm: str = ""
    format: str = ""

    parameters: ClassVar[tuple[str, ...]] = ("token",)
    request_text: ClassVar[str] = "a bearer token in Authorization"

    def read(self, request: web.Request) -> tuple[str, ...] | None:
        """Return the token. A text that cannot be a token is 400 (RFC 6750 section 3.1)."""
        token = _authorization(request, "bearer")
        if token is None:
            return None
        if not _TOKEN68(token):
            raise MalformedCredentials(400, "Authorization is not 'Bearer' and one token.")
        return (_limited(token),)

    def challenge(self, realm: str, error: str = "") -> str:
        """Return the challenge; without credentials it has no error code."""
        code = f', error="{error}"' if error else ""
        return f"Bearer realm={_quoted(self.realm or realm)}{code}"

    def document(self) -> dict[str, str]:
        """Return the object of OpenAPI."""
        document = {"type": "http", "scheme": "bearer"}
        return document | ({"bearerFormat": self.format} if self.format else {})


@dataclass(frozen=True, slots=True)
class HTTPBasic:
    """A user name and a password in ``Authorization: Basic`` (RFC 7617)."""

    realm: str = ""

    parameters: ClassVar[tuple[str, ...]] = ("username", "password")
    request_text: ClassVar[str] = "a user name and a password in Authorization: Basic"

    def read(self, request: web.Request) -> tuple[str, ...] | None:
        """Return the user name and the password, in normalization form C."""
        encoded = _authorization(request, "basic")
        if encoded is None:
            return None
        try:
            # Strict: base64 with other characters, or after its end, has several readings.
            text = binascii.a2b_base64(_limited(encoded).encode("ascii"), strict_mode=True).decode()
        except (ValueError, binascii.Error) as error:
            detail = "The credentials of Authorization: Basic are not base64 of UTF-8."
            raise MalformedCredentials(401, detail) from error
        username, colon, password = text.partition(":")
        if not colon or _CONTROL(text):
            detail = "The credentials of Authorization: Basic are not a user name and a password."
            raise MalformedCredentials(401, detail)
        # The charset of the challenge asks for this form (RFC 7617 section 2.1), which not every
        # client sends: macOS types an accent as a character of its own.
        normal = unicodedata.normalize("NFC", text) if not text.isascii() else text
        username, _, password = normal.partition(":")
        return username, password

    def challenge(self, realm: str, error: str = "") -> str:
        """Return the challenge, whose realm is required (RFC 7617 section 2)."""
        return f'Basic realm={_quoted(self.realm or realm)}, charset="UTF-8"'

    def document(self) -> dict[str, str]:
        """Return the object of OpenAPI."""
        return {"type": "http", "scheme": "basic"}


@dataclass(frozen=True, slots=True)
class APIKey:
    """A key in a header, in the query or in a cookie."""

    location: Location
    name: str
    realm: str = ""

    parameters: ClassVar[tuple[str, ...]] = ("key",)

    @property
    def request_text(self) -> str:
        """Describe the missing credentials."""
        place = "the query" if self.location == "query" else f"a {self.location}"
        return f"an API key in {place}: {self.name}"

    def read(self, request: web.Request) -> tuple[str, ...] | None:
        """Return the key. A damaged one is 401, as any wrong one, and a repeated one is 400."""
        texts = self._texts(request)
        if len(texts) > 1:
            raise MalformedCredentials(400, f"{self.name} was sent {len(texts)} times; send one.")
        key = texts[0] if texts else ""
        if not key:
            return None
        if not is_unicode(key) or "\ufffd" in key or _CONTROL(key):
            raise MalformedCredentials(401, f"{self.name} is not a printable text in UTF-8.")
        return (_limited(key),)

    def _texts(self, request: web.Request) -> list[str]:
        if self.location == "header":
            return request.headers.getall(self.name, [])
        if self.location == "query":
            # Not request.query: it refuses the whole query for a damaged part of another name.
            return request.rel_url.query.getall(self.name, [])
        # All of that name: a page of a sibling domain can set a second one.
        return cookies_of(request).getall(self.name, [])

    def challenge(self, realm: str, error: str = "") -> str:
        """Return a challenge, which a 401 must have (RFC 9110 section 15.5.2), of no standard."""
        return f"ApiKey realm={_quoted(self.realm or realm)}"

    def document(self) -> dict[str, str]:
        """Return the object of OpenAPI."""
        return {"type": "apiKey", "in": self.location, "name": self.name}


def _authorization(request: web.Request, scheme: str) -> str | None:
    """Return the credentials in Authorization; None if it is absent or of another scheme."""
    fields = request.headers.getall(_AUTHORIZATION, ())
    # A proxy may check one of two fields, and we the other one.
    if len(fields) > 1:
        raise MalformedCredentials(400, f"Authorization was sent {len(fields)} times; send one.")
    sent, _, credentials = fields[0].partition(" ") if fields else ("", "", "")
    return credentials.lstrip(" ") if sent.lower() == scheme else None


def _limited(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        detail = f"The credentials are longer than {MAX_CHARACTERS:,} characters."
        raise MalformedCredentials(401, detail)
    return text


def _quoted(text: str) -> str:
    """Return a quoted-string (RFC 9110 section 5.6.4)."""
    safe = "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
    return '"{}"'.format(safe.replace("\\", "\\\\").replace('"', '\\"'))


def secrets_of(credentials: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts that must not be logged: what was sent, and its encoded form."""
    *names, secret = credentials
    if not names:
        return (secret,)
    return base64.b64encode(":".join(credentials).encode()).decode(), secret


def is_plain(text: str) -> bool:
    """Return whether a text can stand in a quoted-string as it is."""
    return text.isascii() and text.isprintable()


SchemeObject = Mapping[str, str]
"""A Security Scheme Object of OpenAPI."""
