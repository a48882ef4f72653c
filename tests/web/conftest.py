"""Serve routes on a loopback socket with aiohttp's low-level server, as the server room does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from gizmopy.web import Handler, Problem, Request
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import Route
from gizmopy.web.problems import problem_response
from gizmopy.web.router import Router
from tests.request_factory import request_factory

Serve = Callable[..., AbstractAsyncContextManager[ClientSession]]


@asynccontextmanager
async def _serve(
    *routes: Route, read_timeout: float = 10.0, client_max_size: int = 1024**2
) -> AsyncIterator[ClientSession]:
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
        lingering_time=0,  # else aiohttp waits 10 seconds for a body that was given up
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
        # aiohttp forgets the task of a connection that its client has closed.
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=5)


@pytest.fixture
def serve() -> Serve:
    """Return the context manager that serves routes and gives a client of that server."""
    return _serve
