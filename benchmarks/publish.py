"""The CPU time of a publish on memory:// without a consumer: the cost of the publisher alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Publisher
from gizmopy.pubsub.brokers.memory import MemoryDriver

ROUNDS = 7
COUNT = 100_000
AT_ONCE = 1000
BODY = b"x" * 1024


async def _alone(out: Publisher) -> None:
    for _ in range(COUNT):
        await out.publish(BODY)


async def _alone_with_key(out: Publisher) -> None:
    for _ in range(COUNT):
        await out.publish(BODY, key="cat-1")


async def _many(out: Publisher) -> None:
    for _ in range(COUNT // AT_ONCE):
        await out.publish_many([BODY] * AT_ONCE)


async def _concurrent(out: Publisher) -> None:
    for _ in range(COUNT // AT_ONCE):
        await asyncio.gather(*(out.publish(BODY) for _ in range(AT_ONCE)))


async def _measure(work: Callable[[Publisher], Awaitable[None]]) -> float:
    """Return the CPU microseconds of a message, in the best of a few rounds."""
    driver = MemoryDriver()
    sender = driver.sender("cats")
    best = float("inf")
    async with Publisher(sender, "cats", metrics=Metrics(), limits=driver.capabilities) as out:
        for _ in range(ROUNDS):
            started = time.process_time()
            await work(out)
            best = min(best, time.process_time() - started)
    return best / COUNT * 1e6


async def main() -> None:
    """Print the CPU time of a message: published alone, in one call, and concurrently."""
    print(f"publish to memory://, 1 KiB, {COUNT:,} messages, best of {ROUNDS} rounds")
    for name, work in (
        ("publish", _alone),
        ("publish with key", _alone_with_key),
        (f"publish_many of {AT_ONCE}", _many),
        (f"{AT_ONCE} tasks, a publish each", _concurrent),
    ):
        print(f"  {name:<28} {await _measure(work):6.2f} µs CPU")


if __name__ == "__main__":
    asyncio.run(main())
