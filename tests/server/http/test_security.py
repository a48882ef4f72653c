"""Security schemes of a running service: who is served, and how the others are refused."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import WSServerHandshakeError, web

import pubsubtest
from gizmopy import (
    Caller,
    Endpoints,
    Problem,
    Service,
    Settings,
    api_key,
    get,
    http_basic,
    http_bearer,
    post,
)
from gizmopy.errors import UsageError
from gizmopy.web import EndpointTable, Handler, same_secret
from tests.server.support import Answer, talk

REALM = 'realm="shop"'
BEARER = f"Bearer {REALM}"
BASIC = f'Basic {REALM}, charset="UTF-8"'
KEY = f"ApiKey {REALM}"


@dataclass(frozen=True)
class User:
    name: str


class Orders(Endpoints):
    """Has the security of the service, except where it says otherwise."""

    prefix = "/orders"

    @get("/mine")
    async def mine(self, user: Caller[User]) -> str:
        return user.name

    @get("/public", security=None)
    async def public(self) -> str:
        return "public"


class Staff(Endpoints):
    """Has a security of its own."""

    prefix = "/staff"

    @http_basic
    def member(self, username: str, password: str) -> User | None:
        return User(username) if same_secret(password, "pässword") else None

    security = (member,)

    @get("/me")
    async def me(self, user: Caller[User]) -> str:
        return user.name


class Shop(Service):
    """Everything but the public endpoints needs credentials."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.users = {"ann-token": User("ann"), "bob-token": User("bob")}
        self.seen: list[str] = []

    @http_bearer
    async def user(self, token: str) -> User | None:
        """Know a user by a token."""
        self.seen.append(token)
        if token == "expired":
            raise Problem(401, "The token has expired.")
        if token == "banned":
            raise Problem(403, "Ann is banned.")
        if token == "redirected":
            raise web.HTTPFound("/login")
        if token == "welcomed":
            raise web.HTTPOk
        if token == "forbidden":
            raise web.HTTPForbidden
        if token == "unknown-token":
            raise KeyError(token)
        return self.users.get(token)

    @api_key(header="X-API-Key")
    def machine(self, key: str, request: web.Request) -> User | Literal[False]:
        self.seen.append(key)
        return same_secret(key, "robot-key") and User(f"robot at {request.path}")

    @api_key(query="key")
    def link(self, key: str) -> bool:
        self.seen.append(key)
        return same_secret(key, "link-key")

    @api_key(cookie="session")
    def session(self, key: str) -> bool:
        self.seen.append(key)
        return same_secret(key, "session-key")

    security = (user, machine)

    def mounts(self) -> Iterable[Endpoints]:
        yield Orders()
        yield Staff()

    @get("/me")
    async def me(self, user: Caller[User], limit: int = 0) -> str:
        return user.name

    @post("/me")
    async def post_me(self, new: User, user: Caller[User]) -> str:
        self.seen.append("body")
        return new.name

    @get("/link", security=link)
    async def linked(self) -> str:
        return "linked"

    @get("/session", security=[session])
    async def in_session(self) -> str:
        return "session"

    @get("/optional", security=(user, None))
    async def optional(self, user: Caller[User | None]) -> str:
        return user.name if user else "nobody"

    @get("/open", security=None)
    async def open(self) -> str:
        return "open"

    @get("/talk")
    async def talk(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    def endpoints(self) -> EndpointTable:
        return {"/table": {"GET": self.in_table, "OPTIONS": self.in_table}}

    async def in_table(self) -> str:
        return "table"


async def ask(url: str, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
    """Send a request with these lines in its head, and return the response."""
    async with talk(url) as client:
        client.ask(method, path, body, *lines)
        return await client.answer(to_head=method == "HEAD")


def challenges(answer: Answer) -> Sequence[str]:
    """Return the challenges of a response."""
    return answer.headers.getall("WWW-Authenticate", [])


def basic(text: str | bytes) -> str:
    """Return the header with credentials of Basic."""
    data = text.encode() if isinstance(text, str) else text
    return f"Authorization: Basic {base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("path", "line", "body"),
    [
        ("/me", "Authorization: Bearer ann-token", "ann"),
        ("/me", "authorization: bEARER   bob-token", "bob"),
        ("/me", "X-API-Key: robot-key", "robot at /me"),
        ("/orders/mine", "Authorization: Bearer ann-token", "ann"),
        ("/orders/public", "X-Other: 1", "public"),
        ("/staff/me", basic("Zoë:pässword"), "Zoë"),
        ("/staff/me", basic(":pässword"), ""),
        # The same password, typed on macOS: the accent is a character of its own.
        ("/staff/me", basic("a:pa\u0308ssword"), "a"),
        ("/link?key=link-key", "X-Other: 1", "linked"),
        ("/session", "Cookie: a=1; session=session-key", "session"),
        ("/optional", "X-Other: 1", "nobody"),
        ("/optional", "Authorization: Bearer ann-token", "ann"),
        ("/open", "X-Other: 1", "open"),
        ("/open", "Authorization: Bearer", "open"),
        ("/table", "X-API-Key: robot-key", "table"),
    ],
)
async def test_a_request_with_credentials_is_served(path: str, line: str, body: str) -> None:
    """The endpoint gets the caller that the checker returned."""
    async with pubsubtest.serve(Shop) as shop:
        answer = await ask(shop.url, path, line)
        assert (answer.status, json.loads(answer.body)) == (200, body)
        assert not challenges(answer)


@pytest.mark.parametrize(
    ("path", "lines", "challenge"),
    [
        ("/me", (), [BEARER, KEY]),
        ("/me?limit=no", (), [BEARER, KEY]),
        ("/me?limit=%ff", (), [BEARER, KEY]),
        ("/me", ("Authorization: ",), [BEARER, KEY]),
        ("/me", ("Authorization: Token ann-token",), [BEARER, KEY]),
        ("/me", ("Authorization: ann-token",), [BEARER, KEY]),
        ("/me", (basic("ann:ann-token"),), [BEARER, KEY]),
        ("/me", ("X-API-Key: ",), [BEARER, KEY]),
        ("/me", ("X-API-Key: robot",), [BEARER, KEY]),
        ("/me", ("X-API-Key: r\u00f6bot",), [BEARER, KEY]),
        ("/me", ("Authorization: Bearer no",), [f'{BEARER}, error="invalid_token"', KEY]),
        ("/me", ("Authorization: Bearer expired",), [f'{BEARER}, error="invalid_token"', KEY]),
        ("/me", (f"Authorization: Bearer {'x' * 8193}",), None),
        ("/orders/mine", (), [BEARER, KEY]),
        ("/table", (), [BEARER, KEY]),
        ("/staff/me", (), [BASIC]),
        ("/staff/me", ("Authorization: Bearer ann-token",), [BASIC]),
        ("/staff/me", (basic("ann:password"),), [BASIC]),
        ("/staff/me", ("Authorization: Basic",), [BASIC]),
        ("/staff/me", ("Authorization: Basic ####",), [BASIC]),
        ("/staff/me", ("Authorization: Basic \u00fc",), [BASIC]),
        ("/staff/me", (basic("no colon"),), [BASIC]),
        ("/staff/me", (basic("a:p\u00e4ssword".encode("latin-1")),), [BASIC]),
        ("/staff/me", (basic("a\0:p\u00e4ssword"),), [BASIC]),
        ("/staff/me", (basic("a:p\u00e4ssword") + "YQ==",), [BASIC]),
        ("/link", (), [KEY]),
        ("/link?key=", (), [KEY]),
        ("/link?key=no", ("X-API-Key: robot-key",), [KEY]),
        ("/link?key=link-key%ff", (), [KEY]),
        ("/link?key=link-key%00", (), [KEY]),
        ("/session", ("Cookie: Session=session-key",), [KEY]),
        ("/session", ("Cookie: sessions=session-key; session",), [KEY]),
        ("/optional", ("Authorization: Bearer no",), [f'{BEARER}, error="invalid_token"']),
    ],
)
async def test_a_request_without_valid_credentials_is_401(
    path: str, lines: tuple[str, ...], challenge: list[str] | None
) -> None:
    """The challenge has an error code only if a token was sent: RFC 6750 section 3.1."""
    async with pubsubtest.serve(Shop, settings=Settings(max_header_bytes=32768)) as shop:
        answer = await ask(shop.url, path, *lines)
        assert answer.status == 401, answer.body
        assert answer.problem["detail"]
        assert challenge is None or challenges(answer) == challenge


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/me", ("Authorization: Bearer",)),
        ("/me", ("Authorization: Bearer one two",)),
        ("/me", ("Authorization: Bearer ann-token, Bearer bob-token",)),
        ("/me", ("Authorization: Bearer ann\u00e4",)),
        ("/me", ("Authorization: Bearer ann-token", "Authorization: Bearer ann-token")),
        ("/me", ("Authorization: Bearer ann-token", "authorization: Digest x")),
        ("/me", ("X-API-Key: robot-key", "X-Api-Key: robot-key")),
        ("/me", ("Authorization: Bearer", "X-API-Key: robot-key")),
        ("/staff/me", (basic("a:pässword"), basic("a:pässword"))),
        ("/link?key=link-key&key=link-key", ()),
        ("/session", ("Cookie: session=session-key; session=other",)),
        ("/session", ("Cookie: session=session-key", "Cookie: session=session-key")),
        ("/optional", ("Authorization: Bearer",)),
    ],
)
async def test_malformed_and_repeated_credentials_are_400(
    path: str, lines: tuple[str, ...]
) -> None:
    """No checker sees them, because another reader of the request could read them otherwise."""
    async with pubsubtest.serve(Shop) as shop:
        answer = await ask(shop.url, path, *lines)
        assert answer.status == 400, answer.body
        assert not shop.service.seen
        for challenge in challenges(answer):
            assert not challenge.startswith("Bearer") or (
                ('error="invalid_request"' in challenge) == any("Auth" in each for each in lines)
            )


@pytest.mark.parametrize("token", ["banned", "forbidden"])
async def test_a_caller_who_may_not_is_403(token: str) -> None:
    """It has no challenge: other credentials of the same caller would not help."""
    async with pubsubtest.serve(Shop) as shop:
        line = f"Authorization: Bearer {token}"
        answer = await ask(shop.url, "/me", line)
        assert (answer.status, challenges(answer)) == (403, [])
        # One of several checkers is enough.
        answer = await ask(shop.url, "/me", line, "X-API-Key: robot-key")
        assert answer.status == 200
        answer = await ask(shop.url, "/me", line, "X-API-Key: wrong")
        assert answer.status == 403


async def test_a_checker_that_fails_lets_no_request_pass(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is 500, also if other credentials are right, and the log does not show the credentials."""
    async with pubsubtest.serve(Shop) as shop:
        lines = "Authorization: Bearer unknown-token", "X-API-Key: robot-key"
        answer = await ask(shop.url, "/me", *lines)
        assert answer.status == 500
        answer = await ask(shop.url, "/me", "Authorization: Bearer welcomed")
        assert answer.status == 500
        answer = await ask(shop.url, "/me", "Authorization: Bearer redirected")
        assert answer.status == 302
    failed = [each for each in caplog.records if each.exc_info]
    assert len(failed) == 2
    text = logging.Formatter().format(failed[0])
    assert "KeyError: '***'" in text
    assert "in user" in text
    assert "unknown-token" not in caplog.text


async def test_the_check_comes_before_the_body_and_the_parameters() -> None:
    """The body is not asked for, not read and not validated, and neither are the parameters."""
    async with pubsubtest.serve(Shop) as shop:
        async with talk(shop.url) as client:
            client.send(
                b"POST /me?limit=x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
                b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await client.answer()).status == 401
        async with talk(shop.url) as client:
            client.send(
                b"POST /me HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\nX-API-Key: robot-key\r\n"
                b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
            )
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b'{"name":"new"}')
            answer = await client.answer()
            assert (answer.status, json.loads(answer.body)) == (200, "new")
        body = b'{"name": "x"}'
        answer = await ask(shop.url, "/me", "Content-Type: text/plain", method="POST", body=body)
        assert answer.status == 401


async def test_the_check_comes_before_the_middleware() -> None:
    """A middleware that answers from a cache must not answer strangers; it can see the caller."""
    seen = []

    def cached(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            seen.append(getattr(request, "caller", "everybody"))
            return web.Response(text="from the cache")

        return handle

    class Cached(Shop):
        middleware = (cached,)

    async with pubsubtest.serve(Cached) as shop:
        assert (await ask(shop.url, "/me")).status == 401
        assert seen == []
        answer = await ask(shop.url, "/me", "Authorization: Bearer ann-token")
        assert answer.body == b"from the cache"
        assert (await ask(shop.url, "/open")).status == 200
        assert seen == [User("ann"), "everybody"]


async def test_head_and_options_are_checked_and_preflights_are_not() -> None:
    """A browser sends no credentials with a preflight, and the 401 has the headers of CORS."""
    origin = "Origin: https://app.example"
    settings = Settings(cors_origins="https://app.example")
    async with pubsubtest.serve(Shop, settings=settings) as shop:
        assert (await ask(shop.url, "/me", method="HEAD")).status == 401
        line = "Authorization: Bearer ann-token"
        assert (await ask(shop.url, "/me", line, method="HEAD")).status == 200
        assert (await ask(shop.url, "/table", method="OPTIONS")).status == 401
        wanted = (
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Headers: Authorization",
        )
        answer = await ask(shop.url, "/table", origin, *wanted, method="OPTIONS")
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Headers"] == "Authorization"
        answer = await ask(shop.url, "/me", origin)
        assert answer.status == 401
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_a_websocket_is_checked_before_it_opens() -> None:
    """Without credentials there is no upgrade."""
    async with pubsubtest.serve(Shop) as shop:
        with pytest.raises(WSServerHandshakeError) as refused:
            await shop.http.ws_connect("/talk")
        assert refused.value.status == 401
        async with shop.http.ws_connect("/talk", headers={"X-API-Key": "robot-key"}) as socket:
            assert (await socket.receive()).type.name == "CLOSE"


async def test_built_in_endpoints_need_no_credentials() -> None:
    """Probes, metrics and the documentation are the server's own."""
    async with pubsubtest.serve(Shop) as shop:
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs"):
            assert (path, (await ask(shop.url, path)).status) == (path, 200)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert (await ask(shop.url, "/nowhere")).status == 404
        assert (await ask(shop.url, "/me", method="DELETE")).status == 405


@pytest.mark.parametrize("format", ["own", "combined"])
async def test_no_credentials_are_in_the_logs(
    tmp_path: Path, format: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those of the query nor those of a header, and not in the Referer either."""
    path = tmp_path / "access.log"
    settings = Settings(http_access_log=str(path), access_log_format=format)
    caplog.set_level(logging.DEBUG)
    async with pubsubtest.serve(Shop, settings=settings) as shop:
        referer = f"Referer: {shop.url}/link?key=link-key#link-key"
        for line in ("Authorization: Bearer ann-token", "Cookie: session=session-key"):
            await ask(shop.url, "/link?key=link-key", line, referer)
            await ask(shop.url, "/link?key=link-key2", line, referer)
    written = path.read_text() + caplog.text
    assert "/link" in written
    for secret in ("link-key", "ann-token", "session-key"):
        assert secret not in written


async def test_no_refusal_quotes_the_credentials() -> None:
    """They could be those of another service."""
    async with pubsubtest.serve(Shop) as shop:
        for line in (
            "X-API-Key: hunter2\t!",
            "Authorization: Bearer hunter2 x",
            "X-API-Key: hunter2",
        ):
            answer = await ask(shop.url, "/me", line)
            assert answer.status in (400, 401)
            assert b"hunter2" not in answer.body


async def test_a_subclass_may_replace_a_checker() -> None:
    """The override without a decorator keeps the scheme of the method that it overrides."""

    class Quiet(Shop):
        async def user(self, token: str) -> User:
            return User(f"quiet {token}")

    async with pubsubtest.serve(Quiet) as shop:
        answer = await ask(shop.url, "/me", "Authorization: Bearer x")
        assert json.loads(answer.body) == "quiet x"


async def test_a_checker_may_be_of_another_object() -> None:
    """A bound method is a checker of the object that it is bound to."""

    class Tokens:
        def __init__(self, name: str) -> None:
            self.name = name

        @http_bearer(realm='the "vault"', format="JWT")
        async def check(self, token: str) -> User:
            return User(f"{self.name} {token}")

    @api_key(header="X-Key")
    async def function(key: str) -> User:
        return User(f"function {key}")

    class Vault(Endpoints):
        def __init__(self, tokens: Tokens) -> None:
            self.security = (tokens.check, function)

        @get("/gold")
        async def gold(self, user: Caller[User]) -> str:
            return user.name

    async with pubsubtest.serve(Vault(Tokens("one"))) as vault:
        answer = await ask(vault.url, "/gold")
        assert challenges(answer)[0] == 'Bearer realm="the \\"vault\\""'
        answer = await ask(vault.url, "/gold", "Authorization: Bearer x")
        assert json.loads(answer.body) == "one x"
        answer = await ask(vault.url, "/gold", "X-Key: y")
        assert json.loads(answer.body) == "function y"


async def test_a_module_is_tested_with_a_checker_of_the_test() -> None:
    """A module that relies on the security of its service gets one from the test."""

    @http_bearer
    def tester(token: str) -> User:
        return User(token)

    async with pubsubtest.serve(Orders(), security=tester) as orders:
        headers: Mapping[str, str] = {"Authorization": "Bearer tess"}
        async with orders.http.get("/orders/mine", headers=headers) as response:
            assert await response.json() == "tess"
        async with orders.http.get("/orders/mine") as response:
            assert response.status == 401
    serve: Any = pubsubtest.serve
    with pytest.raises(UsageError, match="Shop declares its own"):
        async with serve(Shop, security=tester):
            pass


async def test_a_caller_who_waits_too_long_is_504() -> None:
    """The deadline of a request includes its check."""

    class Slow(Service):
        @http_bearer
        async def user(self, token: str) -> User:
            await asyncio.get_running_loop().create_future()
            return User(token)

        security = (user,)

        @get("/me")
        async def me(self, user: Caller[User]) -> str:
            return user.name

    async with pubsubtest.serve(Slow) as slow:
        lines = "Authorization: Bearer ann-token", "X-Request-Timeout: 0.01"
        assert (await ask(slow.url, "/me", *lines)).status == 504
