"""The request handler: responses, errors, streams, metrics and the access log."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from aiohttp import ClientError, web
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

import pubsubtest
from gizmopy import Header, Problem, Service, Settings, get, post, put
from gizmopy.observe.context import request_id
from gizmopy.web import Handler
from tests.server.support import echo


class NewCat(BaseModel):
    name: str


class Cats(Service):
    prefix = "/svc"

    @get("/cats/{id}")
    async def get_cat(self, id: int) -> dict[str, int]:
        if id == 13:
            raise RuntimeError("secret: the cat ate the database")
        if id == 404:
            raise Problem(404, "There is no such cat.", colour="black")
        return {"id": id}

    @put("/cats/{id}")
    async def put_cat(self, id: int, new: NewCat) -> NewCat:
        return new

    @post("/big")
    async def big(self, request: web.Request) -> str:
        return str(len(await request.read()))

    @get("/moved")
    async def moved(self) -> None:
        raise web.HTTPFound("/svc/cats/1")

    @get("/plain")
    async def plain(self) -> None:
        raise web.HTTPForbidden(text="not you")

    @get("/own")
    async def own(self) -> None:
        raise web.HTTPForbidden(text="<p>no", content_type="text/html")

    @get("/whoami")
    async def whoami(self, agent: Annotated[str, Header("User-Agent")]) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"request_id": request_id.get(), "agent": agent}

    @get("/stream")
    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        if "fail" in request.query:
            raise RuntimeError("during the stream")
        await response.write_eof(b", ended")
        return response

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        return await echo(request, lambda data: data.upper())


@pytest.fixture
async def cats() -> AsyncIterator[pubsubtest.Served[Cats]]:
    """Serve the service of this file."""
    async with pubsubtest.serve(Cats) as served:
        yield served


async def _samples(served: pubsubtest.Served[Any], name: str) -> dict[tuple[str, ...], float]:
    """Return a metric's values by the values of its labels, sorted by label name."""
    async with served.http.get("/metrics") as response:
        text = await response.text()
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_a_value_is_sent_as_json(cats: pubsubtest.Served[Cats]) -> None:
    """The path has the service's prefix."""
    async with cats.http.get("/svc/cats/7") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.json() == {"id": 7}


async def test_an_unexpected_error_is_logged_and_not_sent(
    cats: pubsubtest.Served[Cats], caplog: pytest.LogCaptureFixture
) -> None:
    """The response is 500 without the error's text; the traceback is logged once."""
    async with cats.http.get("/svc/cats/13") as response:
        text = await response.text()
        assert response.status == 500
        assert response.content_type == "application/problem+json"
    assert "secret" not in text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "the cat ate the database" in str(record.exc_info[1])
    assert await _samples(cats, "gizmo_panics_total") == {(): 1}


async def test_a_raised_problem_is_the_response(cats: pubsubtest.Served[Cats]) -> None:
    """It is problem+json with the extensions and the request's id."""
    async with cats.http.get("/svc/cats/404", headers={"X-Request-ID": "r-1"}) as response:
        assert response.status == 404
        assert await response.json(content_type="application/problem+json") == {
            "colour": "black",
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "There is no such cat.",
            "request_id": "r-1",
        }


async def test_404_and_405_are_problems(cats: pubsubtest.Served[Cats]) -> None:
    """A 405 lists the allowed methods."""
    async with cats.http.get("/nowhere") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
    async with cats.http.delete("/svc/cats/1") as response:
        assert (response.status, response.content_type) == (405, "application/problem+json")
        assert response.headers["Allow"] == "GET, HEAD, PUT"


async def test_a_body_of_the_wrong_type_or_size_is_a_problem(cats: pubsubtest.Served[Cats]) -> None:
    """415 and 413 are problem+json, also for endpoints that take the request."""
    async with cats.http.put("/svc/cats/1", data="name: Tom") as response:
        assert (response.status, response.content_type) == (415, "application/problem+json")
    async with cats.http.post("/svc/big", data=io.BytesIO(b"x" * (1024 * 1024 + 1))) as response:
        assert (response.status, response.content_type) == (413, "application/problem+json")


async def test_bad_json_is_400_and_bad_values_are_422(cats: pubsubtest.Served[Cats]) -> None:
    """A 422 lists each wrong field."""
    headers = {"Content-Type": "application/json"}
    async with cats.http.put("/svc/cats/1", data="{", headers=headers) as response:
        assert response.status == 400
    async with cats.http.put("/svc/cats/x", json={"name": 7}) as response:
        assert response.status == 422
        errors = (await response.json(content_type=None))["errors"]
        assert [(error["in"], error["field"]) for error in errors] == [
            ("path", "id"),
            ("body", "name"),
        ]


async def test_aiohttps_exceptions_are_responses(
    cats: pubsubtest.Served[Cats],
) -> None:
    """A redirect redirects, an error becomes a problem, one with its own body remains."""
    async with cats.http.get("/svc/moved", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/svc/cats/1")
    async with cats.http.get("/svc/plain") as response:
        assert (await response.json(content_type="application/problem+json"))["detail"] == "not you"
    async with cats.http.get("/svc/own") as response:
        assert (response.content_type, await response.text()) == ("text/html", "<p>no")


async def test_a_valid_request_id_is_used(cats: pubsubtest.Served[Cats]) -> None:
    """X-Request-ID is in the handler's context and in the response."""
    async with cats.http.get("/svc/whoami", headers={"X-Request-ID": "a-b_c.1"}) as response:
        assert response.headers["X-Request-ID"] == "a-b_c.1"
        assert (await response.json())["request_id"] == "a-b_c.1"


@pytest.mark.parametrize("given", [None, "", "x" * 129, 'a"b', "a b", "ключ"])
async def test_an_invalid_request_id_is_replaced(
    cats: pubsubtest.Served[Cats], given: str | None
) -> None:
    """Ids are written to logs, so they must be safe."""
    headers = {} if given is None else {"X-Request-ID": given}
    async with cats.http.get("/svc/whoami", headers=headers) as response:
        made = response.headers["X-Request-ID"]
        assert (await response.json())["request_id"] == made
    assert len(made) == 32
    assert int(made, 16) >= 0


async def test_a_head_request_is_a_get_without_body(cats: pubsubtest.Served[Cats]) -> None:
    """HEAD has the response of GET without its body."""
    async with cats.http.head("/svc/cats/7") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == "8"


async def test_a_request_is_measured_by_the_template_of_its_route(
    cats: pubsubtest.Served[Cats],
) -> None:
    """All paths of a route share one label, and so do all made-up methods."""
    for path in ("/svc/cats/1", "/svc/cats/2", "/no", "/where"):
        async with cats.http.get(path):
            pass
    async with cats.http.request("PROPFIND", "/svc/cats/1"):
        pass

    counts = await _samples(cats, "http_server_request_duration_seconds_count")
    assert counts["GET", "200", "/svc/cats/{id}"] == 2
    assert counts["GET", "404", "__404__"] == 2
    assert counts["_OTHER", "405", "__404__"] == 1
    active = await _samples(cats, "http_server_active_requests")
    assert active["GET", "http"] == 1  # the scrape itself


async def test_the_metrics_name_the_service() -> None:
    """target_info has its name and version; lost access lines are counted."""
    settings = Settings(service_version="1.2.3")
    async with pubsubtest.serve(Cats, settings=settings) as cats:
        assert await _samples(cats, "target_info") == {("cats", "1.2.3"): 1}
        lost = await _samples(cats, "gizmo_log_dropped_total")
        assert lost == {("access",): 0, ("log",): 0}


async def test_a_handler_can_write_its_response_itself(cats: pubsubtest.Served[Cats]) -> None:
    """It prepares a StreamResponse and writes to it."""
    async with cats.http.get("/svc/stream") as response:
        assert await response.text() == "begun, ended"


async def test_a_stream_that_fails_is_broken_off(
    cats: pubsubtest.Served[Cats], caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot become a 500, but the client sees that it is incomplete."""
    with pytest.raises((ConnectionError, ClientError)):
        async with cats.http.get("/svc/stream?fail") as response:
            await response.read()
    assert "during the stream" in caplog.text


async def test_a_websocket_sends_and_receives(cats: pubsubtest.Served[Cats]) -> None:
    """aiohttp's WebSockets work in an endpoint that takes the request."""
    async with cats.http.ws_connect("/svc/socket") as socket:
        await socket.send_str("miaow")
        assert await socket.receive_str() == "MIAOW"


async def test_middleware_wraps_the_services_endpoints_outermost_first() -> None:
    """A middleware is a function of a handler, and the first one is outermost."""
    seen: list[str] = []

    def mark(name: str) -> Any:
        def middleware(handler: Handler) -> Handler:
            async def marked(request: web.Request) -> web.StreamResponse:
                seen.append(name)
                response = await handler(request)
                response.headers["X-Marked"] = name
                return response

            return marked

        return middleware

    class Marked(Cats):
        middleware = (mark("outer"), mark("inner"))

    async with pubsubtest.serve(Marked) as served:
        async with served.http.get("/svc/cats/1") as response:
            assert response.headers["X-Marked"] == "outer"
        async with served.http.get("/livez") as response:
            assert "X-Marked" not in response.headers
    assert seen == ["outer", "inner"]


async def test_each_request_is_a_line_in_the_access_log(tmp_path: Any) -> None:
    """The line is JSON, without the query; probes have none."""
    path = tmp_path / "access"
    settings = Settings(http_port=0, http_access_log=str(path))
    async with pubsubtest.serve(Cats, settings=settings) as served:
        for url in ("/livez", "/readyz", "/metrics", "/svc/cats/7?token=secret", "/nowhere"):
            async with served.http.get(url, headers={"X-Request-ID": "r-1"}):
                pass

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["path"], line["route"], line["status"], line["bytes"]) for line in lines] == [
        ("/svc/cats/7", "/svc/cats/{id}", 200, 8),
        ("/nowhere", "__404__", 404, lines[1]["bytes"]),
    ]
    assert {line["request_id"] for line in lines} == {"r-1"}


async def test_headers_over_the_limit_are_refused() -> None:
    """GIZMO_MAX_HEADER_BYTES limits the head of a request."""
    settings = Settings(http_port=0, http_access_log="off", max_header_bytes=1024)
    async with pubsubtest.serve(Cats, settings=settings) as served:
        async with served.http.get("/livez", headers={"X-Long": "x" * 2000}) as response:
            assert response.status == 431


async def test_bytes_that_are_not_http_are_refused_without_a_log_line(
    cats: pubsubtest.Served[Cats], caplog: pytest.LogCaptureFixture
) -> None:
    """The response is 400, and no traceback is logged."""
    port = int(cats.url.rpartition(":")[2])
    for rubbish in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(rubbish + b"\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
        await writer.wait_closed()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_expect_100_continue_is_answered(
    cats: pubsubtest.Served[Cats],
) -> None:
    """Then the request itself is answered; another expectation is 417."""
    async with cats.http.put("/svc/cats/1", json={"name": "Tom"}, expect100=True) as response:
        assert response.status == 200
    headers = {"Expect": "the impossible"}
    async with cats.http.put("/svc/cats/1", json={"name": "Tom"}, headers=headers) as response:
        assert response.status == 417


async def test_a_cancellation_of_the_handlers_own_is_an_error_like_any_other() -> None:
    """A handler that awaits a cancelled task, or calls sys.exit, is a 500."""

    class Odd(Service):
        @get("/cancelled")
        async def cancelled(self) -> None:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

        @get("/exit")
        async def exit(self) -> None:
            raise SystemExit(3)

        @get("/header")
        async def header(self) -> web.Response:
            return web.Response(headers={"X-Bad": "a\r\nb"})

        @get("/nothing")
        async def nothing(self) -> None:
            return None

    async with pubsubtest.serve(Odd) as odd:
        for path in ("/cancelled", "/exit", "/header"):
            async with odd.http.get(path) as response:
                assert (response.status, response.content_type) == (500, "application/problem+json")
        assert await _samples(odd, "gizmo_panics_total") == {(): 3}
        async with odd.http.get("/nothing") as response:
            assert response.status == 204
