"""Count the requests that a drain loses: python -m tests.endurance.http.drain [ROUNDS].

Raw sockets send requests to the example daemon without a pause, over kept-alive or
new connections, while it receives SIGTERM. A request is lost if it was sent and its connection
ended without an answer. A refused connection loses nothing. HTTP clients would hide such losses,
because they retry.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from itertools import product

CLIENTS = 48
REQUEST = b"GET /svc/cats/stats HTTP/1.1\r\nHost: x\r\n\r\n"


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Send a request, read its answer, and return whether the connection stays open."""
    writer.write(REQUEST)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return b"connection: close" not in head


async def _client(port: int, keep: bool, counts: Counter[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            counts["refused"] += 1
            await asyncio.sleep(0.002)
            continue
        try:
            stays_open = True
            while stays_open and not stop.is_set():
                stays_open = await _ask(reader, writer) and keep
                counts["answered"] += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            counts["lost"] += 1
        finally:
            writer.close()


async def _measure(loop: str, keep: bool, delay: str) -> Counter[str]:
    """Drain a daemon under load, and count the requests by their outcome."""
    settings = {"HTTP_PORT": "0", "HTTP_ACCESS_LOG": "off", "APP_LOG_JSON_FMT": "true"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gizmopy", "run", "tests.cats:Cats"),
        env=os.environ | settings | {"GIZMO_LOOP": loop, "GIZMO_DRAIN_DELAY": delay},
        stderr=PIPE,
    )
    assert process.stderr is not None
    port = int(json.loads(await process.stderr.readline())["url"].rpartition(":")[2])
    log = asyncio.create_task(process.stderr.read())
    counts: Counter[str] = Counter(answered=0, lost=0, refused=0)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(_client(port, keep, counts, stop))
        await asyncio.sleep(1)
        process.send_signal(signal.SIGTERM)
        counts["exit code"] = await asyncio.wait_for(process.wait(), 30)
        stop.set()
    await log
    return counts


async def main(rounds: int) -> int:
    """Print the counts of every round, and return 1 if a request was lost."""
    lost = 0
    for _ in range(rounds):
        for loop, keep, delay in product(("asyncio", "auto"), (True, False), ("0", "500ms")):
            counts = await _measure(loop, keep, delay)
            lost += counts["lost"]
            kind = "kept" if keep else "new"
            print(f"{loop:<8} {kind} connections, delay {delay:<6} {dict(counts)}", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 1)))
