"""Cases of a start: by a URL alone, without the topic, and without the broker."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from uuid import uuid4

import aiohttp

from gizmopy.pubsub.registry import provision
from tests.endurance.http.clients import ask, request
from tests.endurance.http.daemon import ROOT, Daemon, daemon
from tests.endurance.kafka.verdict import Counts
from tests.pubsub.brokers.kafka.cluster import Cluster

_CATS = "tests.cats:Cats"
_COUNT = 300


async def cats_by_a_url(cluster: Cluster, _: float) -> Counts:
    """The cats example runs on Kafka with GIZMO_PUBSUB_URL alone, and its counts agree."""
    finding = Counts()
    async with provision(f"{cluster.url}?partitions=4", "cats"):
        url = f"{cluster.url}?group=cats-{uuid4().hex[:8]}"
        async with daemon("auto", _CATS, GIZMO_PUBSUB_URL=url) as cats, _client(cats) as client:
            accepted = await _put(client, range(_COUNT))
            stats = await _handled(client, accepted, within=20)
            cats.signal()
            finding.require_end(await cats.ended(), code=0, within=10)
    finding.counts |= {"accepted": accepted, **stats, "duplicates": stats["handled"] - accepted}
    finding.require(accepted == _COUNT, f"{_COUNT - accepted} requests were not answered 200")
    finding.require(
        stats == {"stored": _COUNT, "published": _COUNT, "handled": _COUNT}, f"counts: {stats}"
    )
    return finding


@asynccontextmanager
async def _client(cats: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{cats.port}") as client:
        yield client


async def _put(client: aiohttp.ClientSession, numbers: range) -> int:
    """Put a cat of each number, and return how many were accepted."""

    async def put(number: int) -> bool:
        async with client.put(f"/svc/cats/{number}", json={"name": f"Tom {number}"}) as answer:
            return answer.status == 200

    return sum(await asyncio.gather(*map(put, numbers)))


async def _handled(client: aiohttp.ClientSession, count: int, within: float) -> dict[str, int]:
    """Wait until ``count`` messages are handled, and a little longer for surplus ones."""
    until = monotonic() + within
    while (stats := await _stats(client))["handled"] < count and monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    return stats


async def _stats(client: aiohttp.ClientSession) -> dict[str, int]:
    async with client.get("/svc/cats/stats") as answer:
        stats: dict[str, int] = await answer.json()
        return stats


async def topic_missing(cluster: Cluster, _: float) -> Counts:
    """A topic that does not exist ends the start in seconds, with an error that names it."""
    finding = Counts()
    topic = f"nowhere-{uuid4().hex[:8]}"
    begun = monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gizmopy", "run", _CATS),
        env={
            "PATH": os.environ["PATH"],
            "HTTP_PORT": "0",
            "GIZMO_PUBSUB_URL": cluster.url,
            "GIZMO_TOPIC_CATS": f"{cluster.url}/{topic}",
        },
        cwd=ROOT,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(30):
            output = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    error = output[1].decode().strip()
    finding.counts["s to exit"] = round(monotonic() - begun, 1)
    finding.require(process.returncode not in (0, None), f"exit code {process.returncode}")
    finding.require(finding.counts["s to exit"] < 15, "it took too long")
    finding.require(topic in error and "create" in error, f"the error has no remedy: {error}")
    finding.require("Traceback" not in error, f"it ends with a traceback: {error}")
    return finding


class _Relay:
    """A port that refuses connections until it forwards them to a broker."""

    def __init__(self, target: str) -> None:
        self._host, _, self._target = target.rpartition(":")
        self._socket = socket.socket()
        self._socket.bind((self._host, 0))
        self.port: int = self._socket.getsockname()[1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Forward to the broker while the context lasts, and until all clients are gone."""
        clients: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            clients.add(asyncio.create_task(self._serve(reader, writer)))

        async with await asyncio.start_server(connected, sock=self._socket):
            yield
        await asyncio.gather(*clients)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(self._host, int(self._target))
        await asyncio.gather(_copy(reader, to_there), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def broker_away(cluster: Cluster, seconds: float) -> Counts:
    """A daemon without its broker is unready, and works once the broker is there."""
    finding = Counts()
    relay = _Relay(cluster.bootstrap.partition(",")[0])
    topic = f"cats-{uuid4().hex[:8]}"
    url = f"kafka://127.0.0.1:{relay.port}"
    environment = {"GIZMO_PUBSUB_URL": url, "GIZMO_TOPIC_CATS": f"{url}/{topic}?group={topic}"}
    async with provision(f"{cluster.url}?partitions=4", topic):
        async with daemon("auto", _CATS, " listens on ", **environment) as cats:
            async with _client(cats) as client:
                await asyncio.sleep(seconds)
                finding.require(await _readiness(cats) == 503, "it is ready without a broker")
                async with relay.running():
                    finding.counts["s until ready"] = await _until_ready(cats)
                    accepted = await _put(client, range(20))
                    stats = await _handled(client, accepted, within=20)
                    cats.signal()
                    finding.require_end(await cats.ended(), code=0, within=10)
    finding.counts |= {"accepted": accepted, **stats}
    finding.require(accepted == stats["handled"] == 20, f"accepted {accepted}, counts: {stats}")
    return finding


async def _readiness(cats: Daemon) -> int:
    return (await ask(cats.port, request("GET", "/readyz"))).status


async def _until_ready(cats: Daemon) -> float:
    """Return the seconds until the daemon is ready. Raises TimeoutError after 30."""
    begun = monotonic()
    async with asyncio.timeout(30):
        while await _readiness(cats) != 200:  # noqa: ASYNC110 - it polls another process
            await asyncio.sleep(0.1)
    return round(monotonic() - begun, 1)
