"""The door that requests come in by."""

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
            raise RuntimeError("amid the stream")
        await response.write_eof(b", ended")
        return response

    @get("/socket")
    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket


@pytest.fixture
async def cats() -> AsyncIterator[pubsubtest.Served[Cats]]:
    """Serve the cats of this file."""
    async with pubsubtest.serve(Cats) as served:
        yield served


async def _samples(served: pubsubtest.Served[Any], name: str) -> dict[tuple[str, ...], float]:
    """Return a metric's values by those of its labels, in the order of the labels' names."""
    async with served.http.get("/metrics") as response:
        text = await response.text()
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_an_answer_is_json(cats: pubsubtest.Served[Cats]) -> None:
    """What an endpoint returns comes out as JSON, under the service's prefix."""
    async with cats.http.get("/svc/cats/7") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.json() == {"id": 7}


async def test_an_error_that_nobody_handled_tells_nothing(
    cats: pubsubtest.Served[Cats], caplog: pytest.LogCaptureFixture
) -> None:
    """A failing endpoint answers 500 without the error's text; the stack is logged once."""
    async with cats.http.get("/svc/cats/13") as response:
        text = await response.text()
        assert response.status == 500
        assert response.content_type == "application/problem+json"
    assert "secret" not in text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "the cat ate the database" in str(record.exc_info[1])
    assert await _samples(cats, "gizmo_panics_total") == {(): 1}


async def test_a_problem_is_told_as_one(cats: pubsubtest.Served[Cats]) -> None:
    """raise Problem(…) is an answer in problem form, with its extensions and the request's id."""
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


async def test_what_is_not_served_is_a_problem(cats: pubsubtest.Served[Cats]) -> None:
    """404 and 405 have the form of every other error; 405 lists what is allowed."""
    async with cats.http.get("/nowhere") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")
    async with cats.http.delete("/svc/cats/1") as response:
        assert (response.status, response.content_type) == (405, "application/problem+json")
        assert response.headers["Allow"] == "GET, HEAD, PUT"


async def test_a_body_of_the_wrong_type_or_size_is_a_problem(cats: pubsubtest.Served[Cats]) -> None:
    """415 and 413 have the form of every other error, in raw endpoints too."""
    async with cats.http.put("/svc/cats/1", data="name: Tom") as response:
        assert (response.status, response.content_type) == (415, "application/problem+json")
    async with cats.http.post("/svc/big", data=io.BytesIO(b"x" * (1024 * 1024 + 1))) as response:
        assert (response.status, response.content_type) == (413, "application/problem+json")


async def test_bad_json_is_400_and_bad_values_are_422(cats: pubsubtest.Served[Cats]) -> None:
    """A body that is no JSON is told apart from one with wrong fields, each of them listed."""
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


async def test_aiohttps_exceptions_are_answers(
    cats: pubsubtest.Served[Cats],
) -> None:
    """A redirect redirects, a plain error becomes a problem, one with a body of its own stays."""
    async with cats.http.get("/svc/moved", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/svc/cats/1")
    async with cats.http.get("/svc/plain") as response:
        assert (await response.json(content_type="application/problem+json"))["detail"] == "not you"
    async with cats.http.get("/svc/own") as response:
        assert (response.content_type, await response.text()) == ("text/html", "<p>no")


async def test_a_sane_request_id_is_taken(cats: pubsubtest.Served[Cats]) -> None:
    """X-Request-ID is in the context of the handler, and comes back in the answer."""
    async with cats.http.get("/svc/whoami", headers={"X-Request-ID": "a-b_c.1"}) as response:
        assert response.headers["X-Request-ID"] == "a-b_c.1"
        assert (await response.json())["request_id"] == "a-b_c.1"


@pytest.mark.parametrize("given", [None, "", "x" * 129, 'a"b', "a b", "ключ"])
async def test_another_request_id_is_made(cats: pubsubtest.Served[Cats], given: str | None) -> None:
    """Where there is no sane id one is made: it ends up in logs and must not harm them."""
    headers = {} if given is None else {"X-Request-ID": given}
    async with cats.http.get("/svc/whoami", headers=headers) as response:
        made = response.headers["X-Request-ID"]
        assert (await response.json())["request_id"] == made
    assert len(made) == 32
    assert int(made, 16) >= 0


async def test_a_head_request_is_a_get_without_body(cats: pubsubtest.Served[Cats]) -> None:
    """HEAD is answered as GET is, without a body."""
    async with cats.http.head("/svc/cats/7") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == "8"


async def test_a_request_is_measured_by_its_template(cats: pubsubtest.Served[Cats]) -> None:
    """The route's template is the label, whatever the path; made-up methods share one label."""
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


async def test_the_metrics_say_what_they_are_of() -> None:
    """target_info names the service and its version, and lost access lines are counted."""
    settings = Settings(service_version="1.2.3")
    async with pubsubtest.serve(Cats, settings=settings) as cats:
        assert await _samples(cats, "target_info") == {("cats", "1.2.3"): 1}
        lost = await _samples(cats, "gizmo_log_dropped_total")
        assert lost == {("access",): 0, ("log",): 0}


async def test_a_stream_is_passed_on(cats: pubsubtest.Served[Cats]) -> None:
    """A handler may prepare and write its answer itself."""
    async with cats.http.get("/svc/stream") as response:
        assert await response.text() == "begun, ended"


async def test_a_stream_that_fails_is_cut_not_ended(
    cats: pubsubtest.Served[Cats], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that was begun cannot become a 500: the client sees that it is incomplete."""
    with pytest.raises((ConnectionError, ClientError)):
        async with cats.http.get("/svc/stream?fail") as response:
            await response.read()
    assert "amid the stream" in caplog.text


async def test_a_websocket_talks(cats: pubsubtest.Served[Cats]) -> None:
    """aiohttp's WebSockets work in an endpoint that takes the request."""
    async with cats.http.ws_connect("/svc/socket") as socket:
        await socket.send_str("miaow")
        assert await socket.receive_str() == "MIAOW"


async def test_middleware_wraps_the_services_endpoints_outermost_first() -> None:
    """Middleware is a function of a handler, composed in order, around the service's own routes."""
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
    """The access log has a line a request, in JSON, without the query, and none for probes."""
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
    """GIZMO_MAX_HEADER_BYTES bounds what a client may send ahead of a body."""
    settings = Settings(http_port=0, http_access_log="off", max_header_bytes=1024)
    async with pubsubtest.serve(Cats, settings=settings) as served:
        async with served.http.get("/livez", headers={"X-Long": "x" * 2000}) as response:
            assert response.status == 431


async def test_a_client_that_speaks_no_http_is_refused_without_noise(
    cats: pubsubtest.Served[Cats], caplog: pytest.LogCaptureFixture
) -> None:
    """Rubbish on the socket is answered 400, and fills no log with tracebacks."""
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


async def test_a_client_that_waits_to_send_its_body_is_told_to(
    cats: pubsubtest.Served[Cats],
) -> None:
    """Expect: 100-continue is answered, then the request itself; another expectation is 417."""
    async with cats.http.put("/svc/cats/1", json={"name": "Tom"}, expect100=True) as response:
        assert response.status == 200
    headers = {"Expect": "the impossible"}
    async with cats.http.put("/svc/cats/1", json={"name": "Tom"}, headers=headers) as response:
        assert response.status == 417


async def test_a_cancellation_of_the_handlers_own_is_an_error_like_any_other() -> None:
    """A handler that awaits what was cancelled, or calls sys.exit, answers 500."""

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
