"""The endpoints below /debug/."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import ClientSession, web

import gizmopy
from gizmopy import Settings
from gizmopy.observe.levels import LogLevels
from gizmopy.pubsub.channels import ChannelRow
from gizmopy.server.admin.debug import Debug, debug_endpoints
from gizmopy.web import Handler, Problem, Request
from gizmopy.web.decorators import Route, RouteOptions
from gizmopy.web.problems import problem_response
from gizmopy.web.router import Router
from tests.support import request_factory

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Cats:
    async def get_cat(self, id: int) -> int:
        return id


async def _plain() -> None: ...


ROUTES = (
    Route("GET", "/cats/{id}", Cats().get_cat),
    Route("PUT", "/plain", _plain, RouteOptions(timeout=2.5)),
)
ROW = ChannelRow("cats", "kafka://broker/cats", "svc", "Cats.on_cat", 10, "key")


def make_debug(settings: Settings, levels: LogLevels) -> Debug:
    """Return the endpoints of a daemon called cats."""
    return Debug("cats", settings, ROUTES, lambda: [ROW], levels, STARTED)


@asynccontextmanager
async def serving(settings: Settings | None = None) -> AsyncIterator[ClientSession]:
    """Serve the debug endpoints on loopback, and yield a client for them."""
    levels = LogLevels()
    router: Router[Handler] = Router()
    for method, path, handler in debug_endpoints(make_debug(settings or Settings(), levels)):
        router.add(method, path, handler)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, Request)
        handler, request.path_parameters = router.match(request.method, request.rel_url.raw_path)
        try:
            return await handler(request)
        except Problem as problem:
            return problem_response(problem)

    server = web.Server(handle, request_factory=request_factory(1024), access_log=None)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with ClientSession(f"http://{host}:{port}") as client:
            with levels:
                yield client
    finally:
        await runner.cleanup()


async def get_json(path: str, settings: Settings | None = None) -> Any:
    """Return the JSON at ``path``."""
    async with serving(settings) as client, client.get(path) as response:
        assert response.status == 200
        return await response.json()


async def test_config_shows_every_setting_without_secrets() -> None:
    """Every setting is listed by name; of a URL only scheme and host are shown."""
    settings = Settings(pubsub_url="kafka://me:hunter2@broker", subscriptions={"CATS": "a://b:c@d"})

    shown = await get_json("/debug/config", settings)

    assert set(shown) == set(Settings.model_fields)
    assert shown["http_port"] == 8080
    assert shown["read_timeout"] == "10s"
    assert shown["pubsub_url"] == "kafka://broker *** (25 characters)"
    assert shown["subscriptions"] == {"CATS": "a://d *** (9 characters)"}


async def test_config_masks_the_token_of_debug() -> None:
    """Not even a client with the token gets it."""
    settings = Settings.model_validate({"debug_token": "hunter2"})
    bearer = {"Authorization": "Bearer hunter2"}

    async with serving(settings) as client:
        async with client.get("/debug/config", headers=bearer) as response:
            assert "hunter2" not in await response.text()
            assert (await response.json())["debug_token"] == "*** (7 characters)"


async def test_routes_show_functions_and_handlers() -> None:
    """A route shows its function and timeout, a subscription its handler and URL."""
    shown = await get_json("/debug/routes")

    assert shown["routes"][0] == {
        "method": "GET",
        "path": "/cats/{id}",
        "function": "Cats.get_cat",
        "module": __name__,
        "line": Cats.get_cat.__code__.co_firstlineno,
        "timeout": None,
        "cross_origin": False,
        "security": None,
    }
    assert shown["routes"][1]["timeout"] == 2.5
    assert shown["subscriptions"] == [ROW._asdict()]


async def test_info_shows_the_process() -> None:
    """Versions, process, loop and start are shown; the service's version is a setting."""
    shown = await get_json("/debug/info", Settings(service_version="1.2.3-abc"))
    await asyncio.get_running_loop().shutdown_default_executor()  # versions are read in a thread

    assert shown["name"] == "cats"
    assert shown["version"] == "1.2.3-abc"
    assert shown["gizmopy"] == gizmopy.__version__
    assert shown["pid"] == os.getpid()
    loop = type(asyncio.get_running_loop())
    assert shown["loop"] == f"{loop.__module__}.{loop.__qualname__}"
    assert shown["started_at"] == "2026-01-02T03:04:05Z"
    assert shown["uptime_seconds"] > 0
    assert {"aiohttp", "pydantic", "prometheus-client"} <= set(shown["libraries"])
    assert "pytest" not in shown["libraries"]


async def test_loggers_show_their_levels() -> None:
    """Each logger has its level and its effective level."""
    shown = await get_json("/debug/loggers")

    effective = logging.getLevelName(logging.getLogger().level)
    assert shown["root"] == {"level": effective, "effective": effective}
    assert shown["gizmopy.server.debug"] == {"level": None, "effective": effective}


@pytest.fixture
def audit_line(caplog: pytest.LogCaptureFixture) -> Callable[[], tuple[int, str]]:
    """Return a function that returns the level and text of the log line about a change."""

    def only() -> tuple[int, str]:
        (line,) = (each for each in caplog.records if each.name == "gizmopy.server.debug")
        return line.levelno, line.getMessage()

    return only


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/debug/loggers", {"logger": "gizmopy.pubsub", "level": "debug", "ttl": "1h"}),
        ("/debug/loggers/gizmopy.pubsub", {"level": "DEBUG", "ttl": 3600}),
    ],
)
async def test_a_level_is_set(
    path: str, body: Mapping[str, object], audit_line: Callable[[], tuple[int, str]]
) -> None:
    """The level is set for a while, and the log has the client's address."""
    async with serving() as client, client.put(path, json=body) as response:
        shown = await response.json()
        set_to = logging.getLogger("gizmopy.pubsub").level

    assert response.status == 200
    assert shown == {"gizmopy.pubsub": {"level": "DEBUG", "effective": "DEBUG"}}
    assert set_to == logging.DEBUG
    who = "127.0.0.1 sets the log level of gizmopy.pubsub to debug for 1h"
    assert audit_line() == (logging.WARNING, who)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"level": "debug"}, "debug for 10m"),
        ({"level": "debug", "ttl": None}, "debug until the daemon ends"),
        ({"level": None, "ttl": "1m"}, "inherited for 1m"),
    ],
)
async def test_a_level_is_set_for_a_time(
    body: Mapping[str, object], what: str, audit_line: Callable[[], tuple[int, str]]
) -> None:
    """The default is ten minutes; null as the level inherits it."""
    async with serving() as client:
        async with client.put("/debug/loggers/gizmopy.pubsub", json=body) as response:
            assert response.status == 200

    assert audit_line()[1].endswith(f" to {what}")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/debug/loggers", b'{"logger": ', 400),
        ("/debug/loggers", b"", 400),
        ("/debug/loggers", b'{"level": "debug"}', 422),
        ("/debug/loggers/root", b"{}", 422),
        ("/debug/loggers/root", b'{"level": "loud"}', 422),
        ("/debug/loggers/root", b'{"level": null}', 422),
        ("/debug/loggers/root", b'{"level": "debug", "ttl": "soon"}', 422),
        ("/debug/loggers/root", b'{"level": "debug", "ttl": "0s"}', 422),
        ("/debug/loggers/root", b'{"level": "debug", "tll": "10m"}', 422),
        ("/debug/loggers/gizmopy.pubsbu", b'{"level": "debug"}', 404),
        ("/debug/loggers/gizmopy.pub", b'{"level": "debug"}', 404),
    ],
)
async def test_a_wrong_change_is_refused(path: str, body: bytes, status: int) -> None:
    """A malformed or invalid change, and one of an unknown logger, have no effect."""
    before = LogLevels().report()
    kind = {"Content-Type": "application/json"}

    async with serving() as client:
        async with client.put(path, data=body, headers=kind) as response:
            assert response.status == status
            assert response.content_type == "application/problem+json"
        assert LogLevels().report() == before


async def _hang() -> None:
    await asyncio.Event().wait()


async def test_tasks_show_where_a_task_hangs() -> None:
    """The dump names a hanging task and its place: as text, and as JSON by Accept."""
    task = asyncio.create_task(_hang(), name="stuck")
    try:
        async with serving() as client:
            async with client.get("/debug/tasks") as response:
                text = await response.text()
            async with client.get(
                "/debug/tasks", headers={"Accept": "application/json"}
            ) as response:
                stacks = (await response.json())["stacks"]
    finally:
        task.cancel()
        await asyncio.wait((task,))

    assert f"1 task waiting: 'stuck'\n    _hang       {__file__}:" in text
    (stack,) = (each for each in stacks if each["tasks"][0]["name"] == "stuck")
    assert [frame["function"] for frame in stack["frames"]] == ["_hang", "Event.wait"]


async def test_the_index_lists_every_endpoint() -> None:
    """Each line has the method, the path and the purpose of an endpoint."""
    async with serving() as client, client.get("/debug/") as response:
        lines = (await response.text()).splitlines()

    assert (
        "GET  /debug/config            Show the value of every setting, with secrets masked."
        in lines
    )
    served = [
        (method, path) for method, path, _ in debug_endpoints(make_debug(Settings(), LogLevels()))
    ]
    assert [tuple(line.split()[:2]) for line in lines[2:]] == served
