"""The event loop's lag, its tasks, and the pauses of the garbage collector."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

from gizmopy.observe.metrics import HistogramChild, Metrics
from gizmopy.observe.runtime import Runtime


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _lag(metrics: Metrics) -> HistogramChild:
    return metrics.histogram("gizmo_event_loop_lag_seconds", "").child()


def _pauses(metrics: Metrics) -> list[int]:
    """Return the number of collections of each generation that were measured."""
    pauses = metrics.histogram("gizmo_gc_pause_seconds", "", ("generation",))
    return [sum(pauses.child(generation).counts) for generation in "012"]


async def _beats(metrics: Metrics, number: int) -> None:
    lag = _lag(metrics)
    enough = sum(lag.counts) + number
    while sum(lag.counts) < enough:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0)


async def test_the_lag_is_that_of_the_heartbeat() -> None:
    """A heartbeat that is 5 s late is observed as a lag of 5 s."""
    metrics, clock = Metrics(), Clock()
    async with Runtime(metrics, clock=clock, interval=0.01):
        clock.now += 5.01
        await _beats(metrics, 1)

    lag = _lag(metrics)
    assert round(lag.total, 6) == 5.0
    assert lag.counts[lag.bounds.index(5.0)] == 1


async def test_an_early_heartbeat_has_no_lag() -> None:
    """A timer may be early, within its resolution, and the next heartbeat follows."""
    metrics = Metrics()
    async with Runtime(metrics, clock=Clock(), interval=0.001):
        await _beats(metrics, 3)

    assert _lag(metrics).total == 0.0


async def test_another_thread_sees_a_blocked_loop() -> None:
    """The age of the last heartbeat grows while the loop is blocked, and is reset by the next."""
    metrics, clock = Metrics(), Clock()
    async with Runtime(metrics, clock=clock, interval=0.001) as runtime:
        await _beats(metrics, 1)
        with ThreadPoolExecutor(1) as other:
            clock.now += 40
            assert other.submit(runtime.seconds_since_heartbeat).result() == 40
        await _beats(metrics, 1)
        assert runtime.seconds_since_heartbeat() == 0


async def test_tasks_are_counted_at_a_scrape() -> None:
    """The gauge has the number of tasks that are not done, also if another thread renders it."""
    metrics = Metrics()
    release = asyncio.Event()
    async with Runtime(metrics):
        tasks = [asyncio.create_task(release.wait()) for _ in range(3)]
        counted = metrics.gauge("gizmo_event_loop_tasks", "").child()
        metrics.refresh()
        assert counted.value == 4  # the test itself is the fourth
        release.set()
        await asyncio.gather(*tasks)
        thread = threading.Thread(target=metrics.refresh)
        thread.start()
        thread.join()
        assert counted.value == 1


async def test_collections_are_measured_by_generation() -> None:
    """Each collection is observed in its generation, until the end."""
    metrics = Metrics()
    before = list(gc.callbacks)
    async with Runtime(metrics):
        counts = _pauses(metrics)
        for generation in (1, 2, 2):
            gc.collect(generation)
        ended = _pauses(metrics)
    gc.collect()

    assert ended[1] >= counts[1] + 1
    assert ended[2] >= counts[2] + 2
    assert gc.callbacks == before
    after = _pauses(metrics)
    gc.collect()
    assert _pauses(metrics) == after


async def test_two_servers_of_one_process_each_measure() -> None:
    """The end of one leaves the measurements of the other in place."""
    mine, yours = Metrics(), Metrics()
    async with Runtime(yours):
        async with Runtime(mine):
            gc.collect()
        mine_ended, yours_then = _pauses(mine), _pauses(yours)
        gc.collect()

        assert mine_ended[2] >= 1
        assert _pauses(mine) == mine_ended
        assert _pauses(yours)[2] > yours_then[2]


async def test_no_heartbeat_is_left_behind() -> None:
    """After the end, the loop has no heartbeat to run."""
    metrics = Metrics()
    async with Runtime(metrics, interval=0.0):
        await _beats(metrics, 1)
    beats = sum(_lag(metrics).counts)
    for _ in range(5):
        await asyncio.sleep(0)

    assert sum(_lag(metrics).counts) == beats
