"""The hosts that a request may name."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gizmopy.web.hosts import AllowedHosts

HOSTS = AllowedHosts(["cats.example", "*.cats.example", "10.0.0.1", "[::1]"])


def allows(*hosts: str, target: str = "/") -> bool:
    """Return whether a request with these Host headers is allowed."""
    headers = CIMultiDict([("Host", host) for host in hosts])
    return HOSTS.allow(make_mocked_request("GET", target, headers=headers))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("cats.example", True),
        ("CATS.example:8080", True),
        ("cats.example.", True),
        ("cats.example:", True),
        ("a.cats.example", True),
        ("a.b.cats.example:1", True),
        ("10.0.0.1:80", True),
        ("[::1]:8080", True),
        ("", False),
        (".cats.example", False),
        ("xcats.example", False),
        ("cats.example.evil.example", False),
        ("evil.example:cats.example", False),
        ("evil.example/.cats.example", False),
        ("evil.example@cats.example", False),
        ("evil.example .cats.example", False),
        ("cats.example:8080:9090", False),
        ("cats.example..", False),
        ("[::1", False),
        ("::1", False),
        ("10.0.0.2", False),
        ("127.0.0.1", False),
    ],
)
def test_only_listed_hosts_are_allowed(host: str, allowed: bool) -> None:
    """Only the name is compared: not its case, the port or a trailing dot."""
    assert allows(host) is allowed


def test_a_request_names_one_host() -> None:
    """A request without Host, with two, or with a foreign host in its target is refused."""
    assert not allows()
    assert not allows("cats.example", "cats.example")
    assert not allows("cats.example", target="http://evil.example/")
    assert not allows("cats.example", target="http://cats.example@evil.example/")
    assert not allows("evil.example", target="http://cats.example/")
    assert allows("cats.example", target="http://cats.example:80/")


def test_without_names_every_host_is_allowed() -> None:
    """An empty list is false, so the server does not check hosts."""
    assert not AllowedHosts()
    assert HOSTS
