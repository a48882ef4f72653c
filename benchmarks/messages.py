"""The CPU time of a message on memory://, from publish to settled, with everything on."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Literal, NamedTuple

from gizmopy import Service, Settings, SimpleServer, subscribe

ROUNDS = 5
COUNT = 20_000
BODY = b"x" * 1024


class Shape(NamedTuple):
    """The options of a subscription, and the keys of its messages."""

    concurrency: int = 1
    order: Literal["none", "key"] = "none"
    keys: int = 0
    """Number of different keys, used in turn; 0: messages have no key."""
    max_in_flight: int = 1000
    batch_size: int = 0


SHAPES = (
    Shape(),
    Shape(concurrency=100),
    Shape(concurrency=1000),
    Shape(concurrency=100, order="key", keys=10),
    Shape(concurrency=100, order="key", keys=1_000),
    Shape(concurrency=100, order="key", keys=100_000),
    Shape(max_in_flight=100),
    Shape(max_in_flight=10),
    Shape(max_in_flight=1),
    Shape(batch_size=100),
)


def _service(shape: Shape) -> Service:
    options = {
        "concurrency": shape.concurrency,
        "order": shape.order,
        "max_in_flight": shape.max_in_flight,
        "batch_size": shape.batch_size,
    }

    class Single(Service):
        @subscribe("cats", **options)  # type: ignore[arg-type]  # the dict has lost the types
        async def on_cat(self, body: bytes) -> None:
            pass

    class Batched(Service):
        @subscribe("cats", **options)  # type: ignore[arg-type]  # as above
        async def on_cats(self, bodies: list[bytes]) -> None:
            pass

    settings = Settings(http_port=0, http_access_log="off")
    return (Batched if shape.batch_size else Single)(settings)


async def _measure(shape: Shape) -> float:
    """Return the CPU microseconds of a message: published, received, handled and acked."""
    service = _service(shape)
    async with SimpleServer(service) as server:
        started = time.process_time()
        for number in range(COUNT):
            key = str(number % shape.keys) if shape.keys else None
            await service.publish("cats", BODY, key=key)
        await server.channels.idle()
        return (time.process_time() - started) / COUNT * 1e6


async def main() -> None:
    """Print the CPU time of a message for each shape."""
    print(f"memory://, 1 KiB, {COUNT:,} messages, median of {ROUNDS} rounds, µs CPU a message")
    print("  concurrency  order     keys  max_in_flight  batch_size")
    for shape in SHAPES:
        cost = statistics.median([await _measure(shape) for _ in range(ROUNDS)])
        print(
            f"  {shape.concurrency:>11}  {shape.order:<5} {shape.keys:>8,} "
            f"{shape.max_in_flight:>14,} {shape.batch_size or '':>11} {cost:8.1f}"
        )
    print("  with max_in_flight=1, every message takes its own receive and ack")


if __name__ == "__main__":
    asyncio.run(main())
