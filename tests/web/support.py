"""Helpers for tests of gizmopy.web: a server for a few routes, and readers of its responses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, ClientSession, web

from gizmopy.web import Handler, Problem, Request
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import Route
from gizmopy.web.problems import problem_response
from gizmopy.web.router import Router
from tests.support import request_factory


@asynccontextmanager
async def serve(
    *routes: Route, read_timeout: float = 10.0, client_max_size: int = 1024**2
) -> AsyncIterator[ClientSession]:
    """Serve routes on a loopback socket by aiohttp's low-level server; yield a client of it."""
    router: Router[Handler] = Router()
    for route in routes:
        router.add(route.method, route.path, compile_endpoint(route, read_timeout=read_timeout))

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, Request)
        handler, request.path_parameters = router.match(request.method, request.rel_url.raw_path)
        try:
            return await handler(request)
        except Problem as problem:
            return problem_response(problem)

    server = web.Server(
        handle,
        request_factory=request_factory(client_max_size),
        access_log=None,
        lingering_time=0,  # the default waits 10 seconds for the rest of a body that is not read
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()
        # aiohttp does not await the task of a connection that its client has closed.
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=5)


def echo_endpoint(**annotations: Any) -> Callable[..., Awaitable[object]]:
    """Return an endpoint that returns the ``repr`` of each of its parameters.

    The value of a keyword is the type of the parameter, or a pair of its type and its default.
    """
    defaults = {name: each[1] for name, each in annotations.items() if isinstance(each, tuple)}
    order = sorted(annotations, key=lambda name: name in defaults)
    source = ", ".join(f"{name}=defaults[{name!r}]" if name in defaults else name for name in order)
    body = ", ".join(f"{name!r}: repr({name})" for name in order)
    scope: dict[str, Any] = {"defaults": defaults}
    exec(f"async def echo({source}): return {{{body}}}", scope)
    echo: Callable[..., Awaitable[object]] = scope["echo"]
    echo.__annotations__ = {
        name: each[0] if isinstance(each, tuple) else each for name, each in annotations.items()
    }
    return echo


async def json_of(response: ClientResponse) -> Any:
    """Return the JSON of a response, whose status must be 200."""
    assert response.status == 200, await response.text()
    return await response.json()


async def problem_of(response: ClientResponse, status: int) -> Any:
    """Return the problem in a response, which must have this status."""
    assert (response.status, response.content_type) == (status, "application/problem+json")
    return await response.json(content_type=None)


async def errors_of(response: ClientResponse) -> list[tuple[str, str, str]]:
    """Return the location, field and type of each error in a 422 response."""
    problem = await problem_of(response, 422)
    return [(each["in"], each["field"], each["type"]) for each in problem["errors"]]


async def exchange(client: ClientSession, data: bytes) -> tuple[str, Any]:
    """Send ``data`` on a new connection, and return the head and the JSON of the response."""
    url = client._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"Content-Length: (\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    writer.close()
    await writer.wait_closed()
    return head, json.loads(body)
