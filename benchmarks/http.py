"""The CPU time of a request, beside raw aiohttp on the same loop.

Every server runs at the same time, pinned to one core, under its own load from another core. What
is compared is the CPU time of each, divided by the requests it answered: noise cancels out.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
from asyncio.subprocess import PIPE, Process

from benchmarks.cpu import cpu_seconds, pin
from benchmarks.http_servers import SERVERS

ROUNDS = 3
SECONDS = 4.0
CONNECTIONS = 8
BODY = b'{"name": "Tom", "colour": "black"}'
REQUESTS = {
    "GET": b"GET /cats/7 HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\n\r\n",
    "PUT": b"PUT /cats/7 HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
}
_LENGTH = re.compile(rb"[Cc]ontent-[Ll]ength: (\d+)")


class Client(asyncio.Protocol):
    """Send a request, wait for its answer, send the next; count them."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.count = 0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole, and send the next request."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or length is None or len(body) < int(length[1]):
            return
        if b" 200 " not in head[:13]:
            raise RuntimeError(f"the server answered {head[:80]!r}")
        self._received = b""
        self.count += 1
        self._transport.write(self.request)

    def close(self) -> None:
        """Leave."""
        self._transport.close()


async def _measure(servers: dict[str, tuple[Process, int]], request: bytes) -> dict[str, float]:
    """Return the CPU microseconds of a request, for each server, under load at the same time."""
    loop = asyncio.get_running_loop()
    clients = {
        name: [
            (await loop.create_connection(lambda: Client(request), "127.0.0.1", port))[1]
            for _ in range(CONNECTIONS)
        ]
        for name, (_, port) in servers.items()
    }
    await asyncio.sleep(0.5)  # warm up
    begun = {name: cpu_seconds(process.pid) for name, (process, _) in servers.items()}
    counted = {name: sum(client.count for client in each) for name, each in clients.items()}
    await asyncio.sleep(SECONDS)
    costs = {}
    for name, (process, _) in servers.items():
        used = cpu_seconds(process.pid) - begun[name]
        costs[name] = used / (sum(c.count for c in clients[name]) - counted[name]) * 1e6
    for each in clients.values():
        for client in each:
            client.close()
    return costs


async def main() -> None:
    """Print, for each kind of request, what each server spends on one, and the ratios."""
    pin(1)
    servers: dict[str, tuple[Process, int]] = {}
    try:
        for name in SERVERS:
            command = (sys.executable, "-m", "benchmarks.http_servers", name)
            process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
            assert process.stdout is not None
            servers[name] = (process, int(await process.stdout.readline()))
        for method, request in REQUESTS.items():
            rounds = [await _measure(servers, request) for _ in range(ROUNDS)]
            print(f"{method} /cats/{{id}}, median of {ROUNDS} rounds")
            for name in servers:
                cost = statistics.median(each[name] for each in rounds)
                ratio = statistics.median(each["aiohttp"] / each[name] for each in rounds)
                print(
                    f"  {name:<16} {cost:7.1f} µs CPU a request   {ratio:5.2f} times aiohttp's work"
                )
    finally:
        for process, _ in servers.values():
            process.kill()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
