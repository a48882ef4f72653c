"""PROXY protocol headers are parsed, refused, or incomplete."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.server.http.connection.proxy_protocol import (
    MAX_BLOCK,
    MAX_LINE,
    BadProxyHeader,
    ProxyHeader,
    read_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
LONGEST = (
    b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
    b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
)

ports = st.integers(0, 65535)
v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


def block(command: int, family: int, body: bytes, *, version: int = 2) -> bytes:
    """Return a version 2 header."""
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(body)) + body


def addresses(source: IPv4Address | IPv6Address, port: int) -> bytes:
    """Return the addresses of a block: from ``source`` to itself."""
    return source.packed + source.packed + struct.pack("!HH", port, 443)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, ProxyHeader]:
    """Return a header as a proxy sends it, and its content."""
    source = draw(st.one_of(v4, v6))
    port = draw(ports)
    client = (str(source), port)
    if draw(st.booleans()):
        line = f"PROXY TCP{source.version} {source} {source} {port} 443\r\n".encode()
        return line, ProxyHeader(len(line), client)
    extensions = draw(st.binary(max_size=600))
    family = 0x11 if source.version == 4 else 0x21
    data = block(1, family, addresses(source, port) + extensions)
    return data, ProxyHeader(len(data), client)


@given(headers(), st.binary(max_size=50))
def test_a_header_has_the_client_and_its_own_size(
    header: tuple[bytes, ProxyHeader], rest: bytes
) -> None:
    """Both versions name the client. The bytes after the header are the client's."""
    data, said = header

    assert read_header(data + rest) == said


@given(headers())
def test_a_header_is_incomplete_until_its_last_byte(header: tuple[bytes, ProxyHeader]) -> None:
    """This holds however it is split into segments."""
    data, _ = header

    assert all(read_header(data[:end]) is None for end in range(len(data)))


starts = st.sampled_from(
    [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", b"PROXY UNKNOWN", SIGNATURE]
    + [SIGNATURE + bytes((0x21, family)) for family in (0x00, 0x11, 0x21, 0x31)]
)


@given(starts, st.binary(max_size=300))
def test_any_bytes_have_a_result(start: bytes, rest: bytes) -> None:
    """Bytes are a header, the beginning of one, or refused; more bytes do not change that."""
    data = start + rest

    def read(end: int) -> ProxyHeader | str | None:
        try:
            return read_header(data[:end])
        except BadProxyHeader:
            return "bad"

    answers = [read(end) for end in range(len(data) + 1)]
    first = next((answer for answer in answers if answer is not None), None)

    assert [answer for answer in answers if answer is not None] == (
        [first] * (len(answers) - answers.count(None))
    )
    assert None not in answers[answers.index(first) :] or first is None


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN whatever it says\r\n",
        LONGEST,
        block(1, 0x00, b""),
        block(1, 0x00, bytes(40)),
        block(1, 0x31, bytes(216)),
    ],
)
def test_a_client_without_an_address_is_unknown(data: bytes) -> None:
    """Unspecified families and unix sockets are accepted; they have no address."""
    assert read_header(data) == ProxyHeader(len(data))


@pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0xFF])
def test_a_local_connection_has_no_client(family: int) -> None:
    """The bytes after the command LOCAL are ignored (section 2.2)."""
    data = block(0, family, b"junk")

    assert read_header(data) == ProxyHeader(len(data))


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"PROXY\r\n",
            b"PROXY\t",
            b"proxy ",
            b"\r\n\r\nG",
        ),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 50000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443 1\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 50000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443 \r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 50000 443\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 50000 443\r\n",
        b"PROXY TCP4 ::1 ::1 50000 443\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 50000 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::1 50000 443\r\n",
        b"PROXY TCP6 fe80::1 fe80::1%1 50000 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 050 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +50 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 -1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 \u0665 443\r\n".encode(),
        b"PROXY UDP4 192.0.2.1 192.0.2.2 50000 443\r\n",
        b"PROXY UNKNOWNX\r\n",
        LINE.replace(b"\r\n", b"\n").ljust(MAX_LINE, b" "),
        b"PROXY UNKNOWN ".ljust(MAX_LINE, b"x") + b"\r\n",
        block(1, 0x11, bytes(12), version=1),
        SIGNATURE + b"\x10",
        block(2, 0x11, bytes(12)),
        block(1, 0x11, bytes(11)),
        block(1, 0x21, bytes(35)),
        block(1, 0x31, bytes(215)),
        block(1, 0x12, bytes(12)),
        block(1, 0x41, bytes(200)),
        block(1, 0x11, bytes(MAX_BLOCK + 1)),
        block(0, 0x11, bytes(MAX_BLOCK + 1)),
    ],
)
def test_malformed_headers_are_refused(data: bytes) -> None:
    """Other protocols, other versions, wrong fields and addresses, and too many bytes."""
    with pytest.raises(BadProxyHeader):
        read_header(data)


def test_the_longest_headers_are_read() -> None:
    """The limits are 107 bytes for a line, and 16 + 4096 for a block."""
    longest = block(1, 0x11, bytes(MAX_BLOCK))

    assert len(LONGEST) <= MAX_LINE
    assert read_header(longest) == ProxyHeader(len(longest), ("0.0.0.0", 0))
    assert read_header(b"PROXY UNKNOWN".ljust(MAX_LINE - 2) + b"\r\n") == ProxyHeader(MAX_LINE)
    with pytest.raises(BadProxyHeader, match="longer than 107 bytes"):
        read_header(b"PROXY UNKNOWN".ljust(MAX_LINE))


def test_bytes_are_refused_as_soon_as_they_cannot_become_a_header() -> None:
    """An HTTP request is refused at its first byte, and a length that is too large at once."""
    with pytest.raises(BadProxyHeader, match="does not begin with a signature"):
        read_header(b"G")
    with pytest.raises(BadProxyHeader, match="longer than 16"):
        read_header(block(1, 0x11, bytes(MAX_BLOCK + 1))[:16])
    with pytest.raises(BadProxyHeader, match="too short"):
        read_header(block(1, 0x21, bytes(12))[:16])
