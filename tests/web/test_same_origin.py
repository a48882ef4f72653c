"""Which requests a page of another origin has sent."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gizmopy.web.same_origin import is_same_origin

HOST = ("Host", "cats.example:8080")


def from_own_page(*fields: tuple[str, str], scheme: str = "http") -> bool:
    """Return whether a request with these header fields comes from no other origin."""
    request = make_mocked_request("POST", "/", headers=CIMultiDict(fields))
    return is_same_origin(request.clone(scheme=scheme))


def origin(text: str) -> tuple[str, str]:
    """Return an Origin."""
    return "Origin", text


def site(text: str) -> tuple[str, str]:
    """Return a Sec-Fetch-Site."""
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
    """Sec-Fetch-Site names the origin of a request; a value that is not plain is foreign."""
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
def test_without_it_the_origin_has_to_be_the_host(host: str, text: str, own: bool) -> None:
    """A page of the same host and port is an own one, and no other; a default port is left out."""
    assert from_own_page(("Host", host), origin(text)) is own


def test_a_page_of_http_is_foreign_to_https() -> None:
    """Anyone on the network can forge a page of http; a proxy may have ended the TLS of https."""
    own = ("Host", "cats.example")
    assert not from_own_page(own, origin("http://cats.example"), scheme="https")
    assert from_own_page(own, origin("https://cats.example"), scheme="https")
    assert from_own_page(own, origin("https://cats.example"), scheme="http")


def test_what_no_browser_sends_is_foreign() -> None:
    """Two origins, two hosts, or none to compare with."""
    own = origin("http://cats.example:8080")
    assert not from_own_page(HOST, own, own)
    assert not from_own_page(HOST, HOST, own)
    assert not from_own_page(own)
