"""Requests from pages of another origin."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gizmopy.web.same_origin import is_same_origin

HOST = ("Host", "cats.example:8080")


def from_own_page(*fields: tuple[str, str], scheme: str = "http") -> bool:
    """Return whether a request with these headers has the same origin."""
    request = make_mocked_request("POST", "/", headers=CIMultiDict(fields))
    return is_same_origin(request.clone(scheme=scheme))


def origin(text: str) -> tuple[str, str]:
    """Return an Origin header."""
    return "Origin", text


def site(text: str) -> tuple[str, str]:
    """Return a Sec-Fetch-Site header."""
    return "sec-fetch-site", text


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ((), True),
        ((site("same-origin"),), True),
        ((site("none"),), True),
        ((site("same-site"),), False),
        ((site("cross-site"),), False),
        ((site(""),), False),
        ((site("future"),), False),
        ((site("same-origin, cross-site"),), False),
        ((site("same-origin"), site("cross-site")), False),
        ((site("same-origin"), origin("https://proxied.example")), True),
        ((site("cross-site"), origin("http://cats.example:8080")), False),
    ],
)
def test_fetch_metadata_decides(fields: tuple[tuple[str, str], ...], own: bool) -> None:
    """Sec-Fetch-Site is decisive if it is sent; an unknown value counts as foreign."""
    assert from_own_page(HOST, *fields) is own


@pytest.mark.parametrize(
    ("host", "text", "own"),
    [
        ("cats.example:8080", "http://cats.example:8080", True),
        ("Cats.Example:8080", "HTTP://cats.EXAMPLE:8080", True),
        ("cats.example", "http://cats.example", True),
        ("cats.example:80", "http://cats.example", True),
        ("cats.example:443", "https://cats.example", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("cats.example:8080", "http://cats.example", False),
        ("cats.example:8080", "http://cats.example:80", False),
        ("cats.example:8080", "http://dogs.example:8080", False),
        ("cats.example:8080", "http://cats.example:8080.evil.example", False),
        ("cats.example:8080", "http://evil.example/cats.example:8080", False),
        ("cats.example:8080", "http://user@cats.example:8080", False),
        ("cats.example:8080", "null", False),
        ("cats.example:8080", "", False),
        ("cats.example:8080", "cats.example:8080", False),
        ("cats.example:8080", "file://", False),
        ("cats.example:8080", "chrome-extension://cats.example:8080", False),
        ("", "http://", False),
        (":80", "http://", False),
    ],
)
def test_without_fetch_metadata_the_origin_must_be_the_host(
    host: str, text: str, own: bool
) -> None:
    """Only a page of the same host and port has the same origin; browsers omit default ports."""
    assert from_own_page(("Host", host), origin(text)) is own


def test_an_http_page_is_foreign_to_https() -> None:
    """Anyone on the network can forge an http page. An https page may come by a TLS proxy."""
    own = ("Host", "cats.example")
    assert not from_own_page(own, origin("http://cats.example"), scheme="https")
    assert from_own_page(own, origin("https://cats.example"), scheme="https")
    assert from_own_page(own, origin("https://cats.example"), scheme="http")


def test_headers_that_no_browser_sends_are_foreign() -> None:
    """Two origins, two hosts, or no host are refused."""
    own = origin("http://cats.example:8080")
    assert not from_own_page(HOST, own, own)
    assert not from_own_page(HOST, HOST, own)
    assert not from_own_page(own)
