"""Validate and redact the URLs of brokers. Every redaction of a URL in gizmopy is done here.

A URL may hold a login. If its writer did not escape a password, ``urlsplit`` reports a part of the
password as a host, a path or a fragment. So a URL is quoted in an error or a log line only by
``redacted_url``, which shows nothing of a text unless the end of the hosts is certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator

from gizmopy.config.plain_text import validated_text
from gizmopy.config.validation import validation_error
from gizmopy.errors import UsageError
from gizmopy.untrusted.hidden import MASK

HOST_PATTERN = r"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,31}\.?|\[[0-9A-Fa-f:.]{2,45}\])"
_HOST_IN_URL = re.compile(rf"{HOST_PATTERN}(?::[0-9]{{1,5}})?")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31}://)([^/?#]*+)([^?#]*+)(.*)")
_BLANK = re.compile(r"\s")
_REMEDY = (
    "in a user name or a password write %40 for @, %2F for /, %3F for ?, %23 for #, and %5B for ["
)


def validated_url(url: str) -> str:
    """Return ``url`` if the end of its hosts is certain.

    Raises ValueError, which does not quote the URL, if it is not.
    """
    validated_text(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # not chained: its text may quote the password
        raise validation_error("is not a valid URL", _REMEDY) from None
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise validation_error("has an @ after its hosts", _REMEDY)
    return url


def split_broker_url(url: str) -> SplitResult:
    """Return the parts of the URL of a broker. Raises UsageError as ``validated_url`` does."""
    try:
        return urlsplit(validated_url(url))
    except ValueError as error:
        raise UsageError(f"the URL of the broker {error}") from error


def decoded_topic(path: str) -> str:
    """Return the topic that the path of a broker's URL names; empty if it names none.

    Raises UsageError if percent-encoded bytes in it are not UTF-8.
    """
    try:
        return unquote(path.strip("/"), errors="strict")
    except UnicodeDecodeError:
        remedy = "encode the text as UTF-8, and write % itself as %25"
        raise UsageError(f"the topic in a URL is not UTF-8; {remedy}") from None


BrokerUrl = Annotated[str, AfterValidator(validated_url)]


def redacted_url(url: str, *, with_path: bool = False) -> str:
    """Return the scheme and hosts of ``url``, and its path if asked, for an error or a log line.

    ``kafka://user:password@host:9092/cats?group=g`` becomes ``kafka://host:9092``, with its path
    ``kafka://host:9092/cats``. Returns ``***`` if a part of a login may be outside its place.
    """
    scheme, colon, rest = url.partition(":")
    if colon and rest[:1] in ("", "?"):  # urlsplit().geturl() writes memory:// without its slashes
        url = f"{scheme}://{rest}"
    start, path = _safe_parts(url)
    if not start:
        return MASK
    return f"{start}{path}" if with_path else start


def scheme_and_hosts(text: str) -> str:
    """Return the start of a URL without the login, ``kafka://a:9092,b:9092``.

    Returns ``""`` if ``text`` may not be a URL, or if a part of a login may be outside its place.
    """
    return _safe_parts(text)[0]


def _safe_parts(text: str) -> tuple[str, str]:
    """Return scheme and hosts, and the path; two empty texts if one may hold a part of a login."""
    found = _URL.fullmatch(text)
    if found is None or not (text.isascii() and text.isprintable()) or "\\" in text:
        return "", ""
    scheme, authority, path, rest = found.groups()
    # A password with an unescaped "/", "?" or "#" ends the authority early: its "@" comes later.
    if "@" in path or "@" in rest:
        return "", ""
    hosts = authority.rpartition("@")[2]
    if hosts and not all(map(_HOST_IN_URL.fullmatch, hosts.split(","))):
        return "", ""
    return f"{scheme}{hosts}", path


def mask_login(text: str) -> str:
    """Return ``text`` with all from the first login to the last ``@`` masked.

    A password may hold any character that its writer forgot to escape, so everything between is
    masked. In a text without a scheme, such as a list of hosts, a login is found only if the text
    has no blanks.
    """
    start, end = _login_span(text)
    if start >= 0:
        return f"{text[:start]}{MASK}{text[end:]}"
    if 0 <= text.find(":") < end and not _BLANK.search(text):
        return f"{MASK}{text[end:]}"
    return text


def logins_in(text: str) -> Iterator[str]:
    """Yield the login of a URL, its password, and the password before each of several hosts."""
    start, end = _login_span(text)
    if start < 0:
        return
    login = text[start:end]
    yield from (login, login.partition(":")[2])
    for host in login.split(","):
        yield host.rpartition("@")[0].partition(":")[2] or host.partition(":")[2]


def _login_span(text: str) -> tuple[int, int]:
    """Return the start and the end of all that may be a login behind ``://``; -1 if none is."""
    end = text.rfind("@")
    scheme = text.find("://", 0, max(end, 0))
    return (scheme + len("://") if scheme >= 0 else -1), end
