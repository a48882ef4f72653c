"""Which pages may call, and what their browsers are told."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gizmopy.errors import UsageError
from gizmopy.web import Problem
from gizmopy.web.cors import CORS

PAGE = "https://app.example.com"


def ask(origin: str | None = PAGE, method: str = "GET", **asked: str) -> web.Request:
    """Return a request that a page of ``origin`` sends."""
    headers = {f"Access-Control-Request-{name}": value for name, value in asked.items()}
    if origin is not None:
        headers["Origin"] = origin
    return make_mocked_request(method, "/", headers=headers)


def told(response: web.StreamResponse | Problem | None) -> dict[str, str]:
    """Return what an answer tells browsers, by the names' last parts, and caches."""
    assert response is not None
    prefix = "Access-Control-"
    return {
        name.removeprefix(prefix): value
        for name, value in response.headers.items()
        if name.startswith(prefix) or name == "Vary"
    }


def decorated(cors: CORS, origin: str | None = PAGE, **headers: str) -> dict[str, str]:
    """Return what an answer with ``headers`` tells a page of ``origin``."""
    response = web.Response(headers=headers)
    cors.decorate(ask(origin), response)
    return told(response)


@pytest.mark.parametrize(
    ("allowed", "origin", "granted"),
    [
        (PAGE, PAGE, True),
        (PAGE.upper(), PAGE, True),
        (PAGE, "http://app.example.com", False),
        (PAGE, "https://app.example.com:8443", False),
        (PAGE, "https://app.example.com.evil.example", False),
        (PAGE, "https://appxexample.com", False),
        (PAGE, "null", False),
        (PAGE, "", False),
        (PAGE, None, False),
        ("http://localhost:3000", "http://localhost:3000", True),
        ("http://localhost:3000", "http://localhost", False),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("https://*.example.com", PAGE, True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://evil-example.com", False),
        ("https://*.example.com", "https://a.example.com.evil.example", False),
        ("https://*.example.com", "https://evil.example/.example.com", False),
        ("https://*.example.com", "https://evil.example:443@a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com\n", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
    ],
)
def test_only_the_origins_listed_may_call(allowed: str, origin: str | None, granted: bool) -> None:
    """A page may read an answer where its whole origin is allowed, and caches are told why."""
    expected = {"Allow-Origin": origin} if granted else {}

    assert decorated(CORS(["https://other.example", allowed]), origin) == {
        **expected,
        "Vary": "Origin",
    }


@pytest.mark.parametrize("origin", [PAGE, "null", None])
def test_every_page_may_call_where_all_are_allowed(origin: str | None) -> None:
    """The answer is the same for all, also for a request of no page, which a cache may keep."""
    assert decorated(CORS(["*", PAGE]), origin) == {"Allow-Origin": "*"}


@pytest.mark.parametrize(
    ("given", "vary"),
    [
        ("Accept", "Accept, Origin"),
        ("accept, origin", "accept, origin"),
        ("*", "*"),
    ],
)
def test_other_reasons_to_vary_stay(given: str, vary: str) -> None:
    """The origin joins what an answer varies by already, once."""
    assert decorated(CORS([PAGE]), None, Vary=given) == {"Vary": vary}


def test_decorating_twice_is_decorating_once() -> None:
    """A service's own rules and the server's do not add up."""
    cors, response = CORS([PAGE], expose_headers=["ETag"]), web.Response()
    for _ in range(2):
        cors.decorate(ask(), response)

    assert told(response) == {"Allow-Origin": PAGE, "Expose-Headers": "ETag", "Vary": "Origin"}
    assert len(response.headers) == 3 + len(web.Response().headers)


def test_credentials_and_headers_are_granted_to_whom_may_call() -> None:
    """Cookies and readable headers are for pages that may call, and for no other."""
    cors = CORS([PAGE], allow_credentials=True, expose_headers=["ETag", "Link"])

    assert decorated(cors) == {
        "Allow-Origin": PAGE,
        "Allow-Credentials": "true",
        "Expose-Headers": "ETag, Link",
        "Vary": "Origin",
    }
    assert decorated(cors, "https://evil.example") == {"Vary": "Origin"}


def test_a_browser_that_asks_first_is_told_what_the_path_serves() -> None:
    """By default a page may use every method of the path, and the headers it asks for."""
    question = ask(method="OPTIONS", Method="PUT", Headers="authorization,x-cat")
    answer = CORS([PAGE]).preflight(question, ["PUT", "GET"])

    assert answer is not None
    assert answer.status == 204
    assert told(answer) == {
        "Allow-Origin": PAGE,
        "Allow-Methods": "GET, PUT",
        "Allow-Headers": "authorization,x-cat",
        "Max-Age": "600",
        "Vary": "Origin",
    }


def test_methods_and_headers_may_be_named() -> None:
    """Of the methods named those that the path serves are told, and no other header."""
    cors = CORS([PAGE], allow_methods=["get", "PATCH"], allow_headers=["X-Cat"], max_age=5)
    question = ask(method="OPTIONS", Method="PUT", Headers="x-dog")

    granted = told(cors.preflight(question, ["PUT", "GET"]))
    assert granted["Allow-Methods"] == "GET"
    assert granted["Allow-Headers"] == "X-Cat"
    assert granted["Max-Age"] == "5"
    assert told(cors.preflight(question, ["PUT"]))["Allow-Methods"] == ""


def test_a_page_that_may_not_call_is_told_nothing() -> None:
    """The browser of a stranger gets an answer that grants nothing, and refuses by itself."""
    question = ask("https://evil.example", "OPTIONS", Method="PUT", Headers="x-cat")

    assert told(CORS([PAGE]).preflight(question, ["PUT"])) == {"Vary": "Origin"}


@pytest.mark.parametrize(
    "request_",
    [ask(Method="PUT"), ask(method="OPTIONS"), ask(None, "OPTIONS", Method="PUT")],
)
def test_other_requests_are_no_question(request_: web.Request) -> None:
    """Only OPTIONS with an origin and a method is asked before a call."""
    assert CORS([PAGE]).preflight(request_, ["PUT"]) is None


async def test_a_middleware_decorates_what_its_handler_answers() -> None:
    """An answer, a problem and a redirection can be read by the page, each of them."""
    problem, moved = Problem(404, headers={"Vary": "Accept"}), web.HTTPFound("/")

    @CORS([PAGE])
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response()
        raise problem if request.method == "PUT" else moved

    assert told(await handler(ask())) == {"Allow-Origin": PAGE, "Vary": "Origin"}
    with pytest.raises(Problem):
        await handler(ask(method="PUT"))
    assert told(problem) == {"Allow-Origin": PAGE, "Vary": "Accept, Origin"}
    with pytest.raises(web.HTTPFound):
        await handler(ask(method="POST"))
    assert told(moved) == {"Allow-Origin": PAGE, "Vary": "Origin"}


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/cats",
        "https://user@app.example.com",
        "https://app.example.com:",
        "https://*",
        "https://app.*.com",
        "https://*example.com",
        "*.example.com",
        "https://bücher.example",
        "null",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    """A mistake in an origin is told when it is declared, with how one is written."""
    with pytest.raises(UsageError, match=r"is not an origin that a browser sends; write scheme"):
        CORS([origin])


@pytest.mark.parametrize("origin", ["https://app.example.com:443", "http://*.example.com:80"])
def test_a_port_that_browsers_leave_out_is_refused(origin: str) -> None:
    """An origin with its scheme's own port would never be met."""
    with pytest.raises(UsageError, match=r"has the default port \d+, which browsers leave out"):
        CORS([origin])


def test_credentials_for_every_page_are_refused() -> None:
    """Nobody may let the whole world act as its visitors by mistake."""
    with pytest.raises(UsageError, match="list the allowed origins"):
        CORS(["*"], allow_credentials=True)


@pytest.mark.parametrize(
    "origin",
    [
        "https://*.com",
        "https://*.COM",
        "https://*.com.",
        "https://*.com:8443",
        "https://*.xn--p1ai",
        "https://*.localhost",
        "https://*.co.uk",
        "https://*.co.uk.",
        "http://*.com.au",
    ],
)
def test_credentials_for_every_name_of_a_registry_are_refused(origin: str) -> None:
    """Anyone can register a name there; without credentials it is only a smaller *."""
    with pytest.raises(
        UsageError, match=r"name the domain below it, such as https://\*\.example\."
    ):
        CORS([PAGE, origin], allow_credentials=True)
    assert decorated(CORS([PAGE, origin]))["Allow-Origin"] == PAGE


@pytest.mark.parametrize(
    "origin",
    ["https://*.example.com", "https://*.example.co.uk", "https://*.t.co", "https://com.uk", PAGE],
)
def test_credentials_for_names_of_one_owner_are_granted(origin: str) -> None:
    """A domain that was registered is its owner's, with every name below it."""
    assert "Vary" in decorated(CORS([origin], allow_credentials=True))
