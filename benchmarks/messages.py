"""The CPU time of a message on memory://, from publish to settled, with everything on."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Literal

from gizmopy import Service, Settings, SimpleServer, subscribe

ROUNDS = 3
COUNT = 20_000
BODY = b"x" * 1024


def _service(concurrency: int, order: Literal["none", "key"]) -> type[Service]:
    class Consumer(Service):
        @subscribe("cats", concurrency=concurrency, order=order, max_in_flight=1000)
        async def on_cat(self, body: bytes) -> None:
            pass

    return Consumer


async def _measure(concurrency: int, order: Literal["none", "key"], keys: int) -> float:
    """Return the CPU microseconds of a message: published, received, handled and acked."""
    settings = Settings(http_port=0, http_access_log="off")
    service = _service(concurrency, order)(settings)
    async with SimpleServer(service) as server:
        begun = time.process_time()
        for number in range(COUNT):
            key = str(number % keys) if keys else None
            await service.publish("cats", BODY, key=key)
        await server.channels.idle()
        return (time.process_time() - begun) / COUNT * 1e6


async def main() -> None:
    """Print the cost of a message for a few shapes of work."""
    print(f"memory://, 1 KiB, {COUNT:,} messages, median of {ROUNDS} rounds")
    shapes: tuple[tuple[int, Literal["none", "key"], int], ...] = (
        (1, "none", 0),
        (100, "none", 0),
        (100, "key", 10),
        (100, "key", 100_000),
    )
    for concurrency, order, keys in shapes:
        cost = statistics.median([await _measure(concurrency, order, keys) for _ in range(ROUNDS)])
        print(f"  concurrency {concurrency:<4} order {order:<5} {keys:>7} keys {cost:7.1f} µs CPU")


if __name__ == "__main__":
    asyncio.run(main())
