"""CORS: the origins that may call, and the headers for their browsers."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gizmopy.errors import UsageError
from gizmopy.web import Problem
from gizmopy.web.cors import CORS

PAGE = "https://app.example.com"


def request_from(origin: str | None = PAGE, method: str = "GET", **wanted: str) -> web.Request:
    """Return a request of a page of ``origin``."""
    headers = {f"Access-Control-Request-{name}": value for name, value in wanted.items()}
    if origin is not None:
        headers["Origin"] = origin
    return make_mocked_request(method, "/", headers=headers)


def cors_headers(response: web.StreamResponse | Problem | None) -> dict[str, str]:
    """Return the CORS headers, without their common prefix, and Vary."""
    assert response is not None
    prefix = "Access-Control-"
    return {
        name.removeprefix(prefix): value
        for name, value in response.headers.items()
        if name.startswith(prefix) or name == "Vary"
    }


def headers_for(cors: CORS, origin: str | None = PAGE, **headers: str) -> dict[str, str]:
    """Return the CORS headers that a response with ``headers`` gets for a page of ``origin``."""
    response = web.Response(headers=headers)
    cors.decorate(request_from(origin), response)
    return cors_headers(response)


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
def test_only_listed_origins_may_call(allowed: str, origin: str | None, granted: bool) -> None:
    """A page may read a response if its whole origin is allowed; Vary says so to caches."""
    expected = {"Allow-Origin": origin} if granted else {}

    assert headers_for(CORS(["https://other.example", allowed]), origin) == {
        **expected,
        "Vary": "Origin",
    }


@pytest.mark.parametrize("origin", [PAGE, "null", None])
def test_every_page_may_call_if_all_are_allowed(origin: str | None) -> None:
    """The response is the same for all, also without Origin, because a cache may store it."""
    assert headers_for(CORS(["*", PAGE]), origin) == {"Allow-Origin": "*"}


@pytest.mark.parametrize(
    ("given", "vary"),
    [
        ("Accept", "Accept, Origin"),
        ("accept, origin", "accept, origin"),
        ("*", "*"),
    ],
)
def test_other_values_of_vary_are_kept(given: str, vary: str) -> None:
    """Origin is added to the values of Vary, once."""
    assert headers_for(CORS([PAGE]), None, Vary=given) == {"Vary": vary}


def test_adding_the_headers_twice_adds_them_once() -> None:
    """The service and the server may both add them."""
    cors, response = CORS([PAGE], expose_headers=["ETag"]), web.Response()
    for _ in range(2):
        cors.decorate(request_from(), response)

    assert cors_headers(response) == {
        "Allow-Origin": PAGE,
        "Expose-Headers": "ETag",
        "Vary": "Origin",
    }
    assert len(response.headers) == 3 + len(web.Response().headers)


def test_only_allowed_pages_get_credentials_and_headers() -> None:
    """Other pages get neither Allow-Credentials nor Expose-Headers."""
    cors = CORS([PAGE], allow_credentials=True, expose_headers=["ETag", "Link"])

    assert headers_for(cors) == {
        "Allow-Origin": PAGE,
        "Allow-Credentials": "true",
        "Expose-Headers": "ETag, Link",
        "Vary": "Origin",
    }
    assert headers_for(cors, "https://evil.example") == {"Vary": "Origin"}


def test_a_preflight_lists_the_methods_of_the_path() -> None:
    """By default a page may use every method of the path, and send any header."""
    preflight_request = request_from(method="OPTIONS", Method="PUT", Headers="authorization,x-cat")
    response = CORS([PAGE]).preflight(preflight_request, ["PUT", "GET"])

    assert response is not None
    assert response.status == 204
    assert cors_headers(response) == {
        "Allow-Origin": PAGE,
        "Allow-Methods": "GET, PUT",
        "Allow-Headers": "authorization,x-cat",
        "Max-Age": "600",
        "Vary": "Origin",
    }


def test_methods_and_headers_may_be_restricted() -> None:
    """A preflight lists the allowed methods that the path serves, and the allowed headers."""
    cors = CORS([PAGE], allow_methods=["get", "PATCH"], allow_headers=["X-Cat"], max_age=5)
    preflight_request = request_from(method="OPTIONS", Method="PUT", Headers="x-dog")

    granted = cors_headers(cors.preflight(preflight_request, ["PUT", "GET"]))
    assert granted["Allow-Methods"] == "GET"
    assert granted["Allow-Headers"] == "X-Cat"
    assert granted["Max-Age"] == "5"
    assert cors_headers(cors.preflight(preflight_request, ["PUT"]))["Allow-Methods"] == ""


def test_a_preflight_of_another_page_grants_nothing() -> None:
    """The browser of a page that is not allowed gets no CORS headers."""
    preflight_request = request_from(
        "https://evil.example", "OPTIONS", Method="PUT", Headers="x-cat"
    )

    assert cors_headers(CORS([PAGE]).preflight(preflight_request, ["PUT"])) == {"Vary": "Origin"}


@pytest.mark.parametrize(
    "request_",
    [
        request_from(Method="PUT"),
        request_from(method="OPTIONS"),
        request_from(None, "OPTIONS", Method="PUT"),
    ],
)
def test_other_requests_are_no_preflights(request_: web.Request) -> None:
    """A preflight is OPTIONS with an Origin and a requested method."""
    assert CORS([PAGE]).preflight(request_, ["PUT"]) is None


async def test_a_middleware_adds_headers_to_every_response() -> None:
    """The page may read a response, a problem and a redirect."""
    problem, moved = Problem(404, headers={"Vary": "Accept"}), web.HTTPFound("/")

    @CORS([PAGE])
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response()
        raise problem if request.method == "PUT" else moved

    assert cors_headers(await handler(request_from())) == {"Allow-Origin": PAGE, "Vary": "Origin"}
    with pytest.raises(Problem):
        await handler(request_from(method="PUT"))
    assert cors_headers(problem) == {"Allow-Origin": PAGE, "Vary": "Accept, Origin"}
    with pytest.raises(web.HTTPFound):
        await handler(request_from(method="POST"))
    assert cors_headers(moved) == {"Allow-Origin": PAGE, "Vary": "Origin"}


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
    """The error says how to write an origin."""
    with pytest.raises(UsageError, match=r"is not an origin that a browser sends; write scheme"):
        CORS([origin])


@pytest.mark.parametrize("origin", ["https://app.example.com:443", "http://*.example.com:80"])
def test_a_default_port_is_refused(origin: str) -> None:
    """Browsers omit the default port, so such an origin would never match."""
    with pytest.raises(UsageError, match=r"has the default port \d+, which browsers leave out"):
        CORS([origin])


def test_credentials_for_every_page_are_refused() -> None:
    """Otherwise every page could act as its visitor."""
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
def test_credentials_for_a_public_suffix_are_refused(origin: str) -> None:
    """Anyone can register a name below it. Without credentials it is allowed."""
    with pytest.raises(
        UsageError, match=r"name the domain below it, such as https://\*\.example\."
    ):
        CORS([PAGE, origin], allow_credentials=True)
    assert headers_for(CORS([PAGE, origin]))["Allow-Origin"] == PAGE


@pytest.mark.parametrize(
    "origin",
    ["https://*.example.com", "https://*.example.co.uk", "https://*.t.co", "https://com.uk", PAGE],
)
def test_credentials_for_a_registered_domain_are_allowed(origin: str) -> None:
    """The owner of a domain controls every name below it."""
    assert "Vary" in headers_for(CORS([origin], allow_credentials=True))
