"""The CPU time of a request with few and with many routes and connections: it should not grow.

Both sides of a comparison have the same number of requests in flight and request the same number of
different URLs, so that neither side batches system calls better or finds more in a cache. Without
pipelining, one connection carries one request at a time; it is compared with one request in flight
over a thousand connections. Eight in flight over eight connections, and over a thousand, repeat
this on a busier server. The same measurement of aiohttp shows the share of the kernel and of
aiohttp: idle connections leave the processor's caches.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from statistics import median

import uvloop

from benchmarks.figures import Target, spread
from benchmarks.http import REQUESTS
from benchmarks.http_servers import announce
from benchmarks.load import Load, measure, served
from gizmopy import Service, Settings, SimpleServer
from gizmopy.web import EndpointTable

ROUNDS = 3
SECONDS = 4.0
FEW_ROUTES, MANY_ROUTES = 10, 10_000
MANY_CONNECTIONS = 1_000
TARGET = Target(most=1.1)


class Kinds(Service):
    """A service of many routes with one handler."""

    count = 0

    def endpoints(self) -> EndpointTable:
        """Serve a route for each kind."""
        return {f"/kind{n:05}/{{id}}": {"GET": self.get_one} for n in range(self.count)}

    async def get_one(self, id: int) -> dict[str, int]:
        """Answer a small JSON object."""
        return {"id": id}


async def _serve(routes: int) -> None:
    service = Kinds(Settings(http_port=0, http_access_log="stdout", log_json=True))
    service.count = routes
    async with SimpleServer(service) as server:
        await announce(int(server.url.rpartition(":")[2]))


def _requests(routes: int) -> list[bytes]:
    """Return requests for the routes in turn; the number of URLs does not depend on ``routes``."""
    return [
        b"GET /kind%05d/%05d HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\n\r\n" % (n % routes, n)
        for n in range(MANY_ROUTES)
    ]


def _compare(label: str, loads: Mapping[str, Load], target: Target | None = None) -> None:
    """Measure the loads ``few`` and ``many``, and print their costs and the ratio."""
    rounds = measure(loads, rounds=ROUNDS, seconds=SECONDS)
    few, many = (median(each[side] for each in rounds) for side in ("few", "many"))
    ratios = [each["many"] / each["few"] for each in rounds]
    verdict = "" if target is None else f" {target.judge(ratios)}"
    print(f"  {label:<50} {few:6.1f} and {many:6.1f} µs, {spread(ratios)}{verdict}")


def compare_routes() -> None:
    """Print the CPU time of a request with few and with many routes, requested in turn."""
    counts = {"few": FEW_ROUTES, "many": MANY_ROUTES}
    commands = {side: ("benchmarks.scale", str(count)) for side, count in counts.items()}
    with served(commands) as servers:
        loads = {side: Load(servers[side], _requests(count)) for side, count in counts.items()}
        _compare(f"{FEW_ROUTES} and {MANY_ROUTES:,} routes", loads, TARGET)


def compare_connections(kind: str, target: Target | None = None) -> None:
    """Print the CPU time of a request over few and over many connections, all used in turn."""
    request = [REQUESTS["GET"]]
    with served(dict.fromkeys(("few", "many"), ("benchmarks.http_servers", kind))) as servers:
        for in_flight in (1, 8):
            counts = {"few": in_flight, "many": MANY_CONNECTIONS}
            loads = {
                side: Load(servers[side], request, connections=count, in_flight=in_flight)
                for side, count in counts.items()
            }
            label = (
                f"{in_flight} and {MANY_CONNECTIONS:,} connections, {in_flight} in flight, {kind}"
            )
            _compare(label, loads, target)


def main() -> None:
    """Print every comparison."""
    print("CPU time of a request, few and many")
    compare_routes()
    compare_connections("gizmopy-pipe", TARGET)
    compare_connections("aiohttp")


if __name__ == "__main__":
    if sys.argv[1:]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(_serve(int(sys.argv[1])))
    else:
        main()
