"""Make hostile inputs for an HTTP port: valid requests that are changed at random."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from random import Random

_CAT = b'{"kind":"cat","name":"Tom","born":"2020-02-29","nap":"1m30s","lives":{"9":"left"}}'
_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\ntext\r\n--x--\r\n'
)
_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def _request(line: str, *fields: str, body: bytes | None = None) -> bytes:
    length = () if body is None else (f"Content-Length: {len(body)}",)
    head = "\r\n".join((f"{line} HTTP/1.1", "Host: fuzz", *fields, *length, "", ""))
    return head.encode("latin-1") + (body or b"")


def _chunked(line: str, *fields: str, body: bytes) -> bytes:
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return _request(line, *fields, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"


def _frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """Return a masked frame of a WebSocket; the mask is zero, so that the payload is readable."""
    size = len(payload)
    head = bytes((last << 7 | opcode, 0x80 | (size if size < 126 else 126)))
    return head + (size.to_bytes(2, "big") if size > 125 else b"") + bytes(4) + payload


_SOCKET = ("Upgrade: websocket", "Connection: Upgrade", _KEY, "Sec-WebSocket-Version: 13")
_JSON = "Content-Type: application/json"
_PARTS = "Content-Type: multipart/mixed; boundary=x"
SEEDS = (
    _request("GET /"),
    _request("HEAD /"),
    _request("OPTIONS *"),
    _request("OPTIONS /pets/1", "Origin: http://a.example", "Access-Control-Request-Method: PUT"),
    _request("GET http://fuzz/pets/7?tag=a&tag=b&page-size=3"),
    _request("GET /pets/7?tag=%C3%A4&page-size=3", "Cookie: a=b; c=d", "Range: bytes=0-1"),
    _request("PUT /pets/7", _JSON, "X-Tenant: t", body=_CAT),
    _request("PUT /pets/7", _JSON, body=b'{"kind":"dog","name":"Rex"}'),
    _request("PUT /pets/7", _JSON, "Expect: 100-continue", body=_CAT),
    _request("PUT /pets/7", _JSON, "Content-Encoding: gzip", body=gzip.compress(_CAT, mtime=0)),
    _chunked("PUT /pets/7", _JSON, body=_CAT),
    _chunked("POST /raw", "Trailer: X-Sum", body=b"0123456789" * 20),
    _request("POST /raw", body=b"0123456789"),
    _request("POST /ignored", body=b"0123456789"),
    _request("POST /form", "Content-Type: application/x-www-form-urlencoded", body=b"a=1&b=%20"),
    _request("POST /form", "Content-Type: multipart/form-data; boundary=x", body=_FORM),
    _request("GET /files/a-1.2.txt", "X-Request-Timeout: 1m30s", "grpc-timeout: 500m"),
    _request("GET /tree/a/b/../c%2Fd", "X-Request-ID: abc", "Connection: keep-alive"),
    _request("GET /stream", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    _request(
        "GET /ws", "Upgrade: websocket", "Connection: Upgrade", _KEY, "Sec-WebSocket-Version: 13"
    )
    + b"\x81\x85\x01\x02\x03\x04ignnn\x88\x80\x01\x02\x03\x04",
    _request("GET /", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AA"),
    _request("CONNECT fuzz:443"),
    _request("GET /livez", "X-Forwarded-For: 10.0.0.1, ::1", "Forwarded: for=10.0.0.1;proto=https"),
    _request("GET /readyz?verbose&exclude=a"),
    _request("GET /metrics", "Accept: application/openmetrics-text;q=0.5", "Accept-Encoding: gzip"),
    _request("GET /openapi.json"),
    _request("PUT /debug/loggers", "Authorization: Bearer x", _JSON, body=b'{"logger":"a"}'),
    _request("GET /all?a=b&c=%C3%A4#d", "Cookie: a=b", "Range: bytes=0-1", 'If-Match: "a", W/"b"'),
    _request("GET /all", "Forwarded: for=1.1.1.1;by=b", "If-Range: Thu, 01 Jan 1970 00:00:00 GMT"),
    _request("POST /all", "Content-Type: text/plain; charset=utf-8", body=b"text"),
    _request("POST /parts", "Content-Type: multipart/form-data; boundary=x", body=_FORM),
    _request(
        "POST /parts",
        _PARTS,
        body=_FORM.replace(b"\r\n\r\n1", b"\r\nContent-Encoding: gzip\r\n\r\n1"),
    ),
    _request(
        "POST /parts",
        _PARTS,
        body=b"--x\r\n"
        + _PARTS.encode().replace(b"=x", b"=y")
        + b"\r\n\r\n--y\r\n\r\n1\r\n--y--\r\n\r\n--x--\r\n",
    ),
    _request("POST /content", body=b"0123456789" * 4000),
    _chunked(
        "POST /content", "Content-Encoding: gzip", body=gzip.compress(b"0" * 100_000, mtime=0)
    ),
    _request("POST /form", "Origin: https://a.example", "Sec-Fetch-Site: same-site", body=b""),
    _request(
        "OPTIONS /pets/1",
        "Origin: https://a.example",
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: X-A, X-B",
    ),
    _request(
        "GET /", "X-Forwarded-For: 1.2.3.4, 127.0.0.1", "X-Forwarded-Proto: https", "X-Real-IP: ::1"
    ),
    _request("GET /file", "Range: bytes=1-", "If-None-Match: *"),
    _request("HEAD /file", "Range: bytes=-5"),
    _request(
        "GET /ws",
        *_SOCKET,
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9",
    )
    + _frame(1, b"text") * 3
    + _frame(1, b"a", last=False)
    + _frame(9, b"ping")
    + _frame(0, b"b")
    + _frame(2, bytes(300))
    + _frame(8, b"\x03\xe8"),
    _request("GET /ws", *_SOCKET) + _frame(1) * 500,
    _request("GET /", "X: " + "y" * 15_000, "Z: " + "z" * 15_000) * 3,
    b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n" + _request("GET /"),
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + _request("GET /"),
    b"GET / HTTP/1.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # a TLS greeting
)

_PIECES = (
    *(b"\r\n", b"\n", b"\r", b"\0", b"\t", b" ", b":", b"%", b"%00", b"%2e%2e/", b"..", b"\xff"),
    *(
        b"\xc3\x28",
        b"\xe2\x80\xae",
        b"\x1b[2J",
        b"\x85",
        b"{",
        b"[" * 500,
        b'"',
        b"\\ud800",
        b"-" * 99,
    ),
    *(b"1111s" * 40, b"9" * 400, b"-1", b"+5", b"0x10", b"1e999", b"NaN", b"null", b";a=b", b","),
    *(
        b"HTTP/1.1",
        b"HTTP/0.9",
        b"HTTP/9.9",
        b"chunked",
        b"gzip",
        b"identity",
        b"*",
        b"http://[::1",
    ),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: other\r\n",
        b"Host:\r\n",
    ),
    *(b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b" folded\r\n"),
    *(b"Content-Type: application/json; charset=utf-7\r\n", b"Content-Encoding: deflate\r\n"),
    *(
        b"Sec-Fetch-Site: cross-site\r\n",
        b"Origin: null\r\n",
        b"Cookie: " + b"a=b;" * 100 + b"\r\n",
    ),
    *(b"X: " + b"y" * 9000 + b"\r\n", b"A: b\r\n" * 200, b"0\r\n\r\n", b"fffffffff\r\n"),
)


def _insert(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    data[place:place] = random.choice(_PIECES)


def _insert_field(data: bytearray, random: Random) -> None:
    """Insert a piece at the beginning of a line, as only there it is a field."""
    ends = [index + 2 for index in range(len(data)) if data.startswith(b"\r\n", index)]
    place = random.choice(ends or [0])
    data[place:place] = random.choice(_PIECES)


def _replace(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    data[place : place + random.randrange(1, 9)] = random.choice(_PIECES)


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.randrange(1, 5)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _delete(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data))
    del data[place : place + random.randrange(1, 20)]


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _repeat(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data))
    part = data[place : place + random.randrange(1, 40)]
    data[place:place] = part * random.randrange(1, 200)


def _splice(data: bytearray, random: Random) -> None:
    other = random.choice(SEEDS)
    data[random.randrange(len(data)) :] = other[random.randrange(len(other)) :]


def _pipeline(data: bytearray, random: Random) -> None:
    data.extend(random.choice(SEEDS))


def _garble(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data))
    data[place : place + 30] = random.randbytes(random.randrange(1, 60))


_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    *(_insert, _insert_field, _replace, _flip, _delete, _truncate, _repeat, _splice, _pipeline),
    _garble,
)


def http_input(seed: int, number: int) -> tuple[list[bytes], bool]:
    """Return input ``number`` of ``seed``: its segments, and whether EOF follows at once.

    The same two numbers always make the same input.
    """
    random = Random(f"{seed}/{number}")
    data = bytearray(random.choice(SEEDS))
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        random.choice(_CHANGES)(data, random)
        data = data or bytearray(b"\n")
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 0, 1, 2))))
    bounds = [0, *cuts, len(data)]
    segments = [bytes(data[start:end]) for start, end in pairwise(bounds)]
    return [segment for segment in segments if segment], random.random() < 0.3
