"""The client's address and scheme behind trusted proxies."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gizmopy.server.http.proxies import Proxies

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
PROXIES = Proxies(TRUSTED)

headers = st.lists(
    st.lists(
        st.one_of(
            st.ip_addresses().map(str),
            st.sampled_from(
                ("10.0.0.1", "fd00::1", "", "unknown", "[fd00::1]:80", "::ffff:10.1.1.1")
            ),
            st.text(max_size=80),
        )
    ).map(",".join),
    max_size=4,
)
strangers = st.ip_addresses().filter(
    lambda address: (
        not any(address in network for network in TRUSTED)
        and not (address.version == 6 and address.ipv4_mapped)
    )
)


class _Peer:
    """A transport with a peer address."""

    def __init__(self, peername: object) -> None:
        self.peername = peername

    def get_extra_info(self, name: str) -> object:
        return self.peername if name == "peername" else None

    def is_closing(self) -> bool:
        return False


def ask(proxies: Proxies, peername: object, *given: tuple[str, str]) -> tuple[str, str]:
    """Return the address and the scheme of a request with the headers ``given``."""
    request = make_mocked_request("GET", "/", headers=CIMultiDict(given), transport=_Peer(peername))
    return proxies.address(request), proxies.scheme(request)


@given(strangers, headers)
def test_a_peer_that_is_not_trusted_cannot_choose_its_address(
    peer: object, forwarded: Sequence[str]
) -> None:
    """Its headers are ignored."""
    assert PROXIES.client_address(str(peer), forwarded) == str(peer)


@given(strangers, headers, st.lists(st.sampled_from(("10.1.2.3", "fd00::2")), max_size=5))
def test_a_client_behind_proxies_cannot_choose_its_address(
    client: object, forged: Sequence[str], hops: list[str]
) -> None:
    """Entries before those of the proxies are ignored, for any number of proxies."""
    forwarded = [*forged, ", ".join((str(client), *hops))]

    assert PROXIES.client_address("10.0.0.1", forwarded) == str(client)


@given(st.one_of(st.none(), st.just(""), st.ip_addresses().map(str)), headers)
def test_headers_are_ignored_without_trusted_networks(
    peer: str | None, forwarded: Sequence[str]
) -> None:
    """This holds for unix sockets, too."""
    proxies = Proxies(())

    assert not proxies
    assert proxies.client_address(peer, forwarded) == proxies.client_address(peer, ())


@given(headers)
def test_a_client_that_is_gone_is_not_trusted(forwarded: Sequence[str]) -> None:
    """A peer without an address any more is not a unix socket, so it is not trusted."""
    assert PROXIES.client_address(None, forwarded) == ""


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1,"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["[fe80::1%eth0]:4711"], "fe80::1"),
        ("10.0.0.1", ["[2001:db8::1]4711"], "10.0.0.1"),
        ("10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1\N{ARABIC-INDIC DIGIT ONE}"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1" + ":" + "1" * 100], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("fd00::1%eth0", ["192.0.2.1"], "192.0.2.1"),
        ("", ["192.0.2.1"], "192.0.2.1"),
        ("", [], ""),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_not_trusted(
    peer: str, forwarded: list[str], client: str
) -> None:
    """Reading ends at that address, or before the first entry that is not an address."""
    assert PROXIES.client_address(peer, forwarded) == client


def test_at_most_32_proxies_are_read() -> None:
    """The entries before them are ignored."""
    chain = ",".join(("192.0.2.1", "10.0.0.3", *["10.0.0.2"] * 31))

    assert PROXIES.client_address("10.0.0.1", [chain]) == "10.0.0.3"
    assert PROXIES.client_address("10.0.0.1", chain.split(",")) == "10.0.0.3"


def test_real_ip_counts_if_there_is_no_forwarded_for() -> None:
    """It is ignored if X-Forwarded-For is there, even a malformed one."""
    real_ip = ("X-Real-IP", "192.0.2.1")

    assert ask(PROXIES, ("10.0.0.1", 1), real_ip)[0] == "192.0.2.1"
    assert ask(PROXIES, ("10.0.0.1", 1), real_ip, ("X-Forwarded-For", "?"))[0] == "10.0.0.1"
    assert ask(PROXIES, ("192.0.2.9", 1), real_ip)[0] == "192.0.2.9"


@pytest.mark.parametrize(
    ("peername", "trusted", "address"),
    [
        ("", TRUSTED, "192.0.2.1"),
        ("", (), ""),
        (None, TRUSTED, ""),
        (("192.0.2.9", 1), (), "192.0.2.9"),
        (("10.0.0.1", 1), (), "10.0.0.1"),
    ],
)
def test_a_unix_socket_is_trusted_if_any_network_is(
    peername: object, trusted: tuple[IPv4Network | IPv6Network, ...], address: str
) -> None:
    """Its client has an empty address; a closed connection has none."""
    assert ask(Proxies(trusted), peername, ("X-Forwarded-For", "192.0.2.1"))[0] == address


@pytest.mark.parametrize(
    ("peername", "sent", "scheme"),
    [
        (("10.0.0.1", 1), ["https"], "https"),
        (("10.0.0.1", 1), ["WSS"], "https"),
        (("10.0.0.1", 1), ["https, http"], "http"),
        (("10.0.0.1", 1), ["https", "http"], "http"),
        (("10.0.0.1", 1), ["gopher"], "http"),
        (("10.0.0.1", 1), [], "http"),
        (("192.0.2.9", 1), ["https"], "http"),
        ("", ["https"], "https"),
        (None, ["https"], "http"),
    ],
)
def test_the_scheme_is_that_of_the_nearest_trusted_proxy(
    peername: object, sent: list[str], scheme: str
) -> None:
    """The last value of X-Forwarded-Proto counts, if it is a scheme."""
    given = [("X-Forwarded-Proto", value) for value in sent]

    assert ask(PROXIES, peername, *given)[1] == scheme
    assert ask(Proxies(()), peername, *given)[1] == "http"
