"""Measure the event loop's lag and the pauses of the garbage collector.

Both delay every request, and no line of the service's own code shows them.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from time import perf_counter

from gizmopy.observe.metrics import Metrics

_HEARTBEAT_SECONDS = 0.1
_SHORTEST_INTERVAL = 0.01
_BEATS = 5
"""The heartbeats in the time after which a blocked loop is logged."""
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PAUSES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_GENERATIONS = range(3)


def heartbeat_interval(blocking_seconds: float) -> float:
    """Return an interval that shows a loop that is blocked for that long; 0: the longest one."""
    shortest = max(blocking_seconds / _BEATS, _SHORTEST_INTERVAL)
    return min(shortest, _HEARTBEAT_SECONDS) if blocking_seconds else _HEARTBEAT_SECONDS


class Runtime:
    """Measure the running event loop and the garbage collector while the context lasts.

    A heartbeat every ``interval`` seconds measures the lag of the loop. ``clock`` returns seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval: float = _HEARTBEAT_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._interval = interval
        self._last_heartbeat = clock()
        self._collection_started_at = 0.0
        self._observe_lag = (
            metrics.histogram(
                "gizmo_event_loop_lag_seconds",
                "How late the event loop runs a callback that is due.",
                bounds=_LAGS,
            )
            .child()
            .observe
        )
        self._tasks = metrics.gauge("gizmo_event_loop_tasks", "Tasks that are not done.").child()
        pauses = metrics.histogram(
            "gizmo_gc_pause_seconds",
            "How long a garbage collection held the process.",
            ("generation",),
            _PAUSES,
        )
        self._observe_pause = [pauses.child(str(number)).observe for number in _GENERATIONS]

    async def __aenter__(self) -> Runtime:
        self._loop = asyncio.get_running_loop()
        self._collection_started_at = perf_counter()
        gc.callbacks.append(self._on_collection)
        self._metrics.before_scrape(self._count_tasks)
        # Again, because the start of the daemon between __init__ and here is not a lag of the loop.
        self._last_heartbeat = self._clock()
        self._next_heartbeat = self._loop.call_later(self._interval, self._heartbeat)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._next_heartbeat.cancel()
        gc.callbacks.remove(self._on_collection)

    def seconds_since_heartbeat(self) -> float:
        """Return the seconds since the last heartbeat; safe to call in any thread."""
        return self._clock() - self._last_heartbeat

    def _heartbeat(self) -> None:
        now = self._clock()
        # max: a timer may fire early, by less than the resolution of the clock.
        self._observe_lag(max(0.0, now - self._last_heartbeat - self._interval))
        self._last_heartbeat = now
        self._next_heartbeat = self._loop.call_later(self._interval, self._heartbeat)

    def _count_tasks(self) -> None:
        self._tasks.value = len(asyncio.all_tasks(self._loop))

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Measure a collection. There are thousands a second, but never two at a time."""
        if phase == "start":
            self._collection_started_at = perf_counter()
        else:
            self._observe_pause[info["generation"]](perf_counter() - self._collection_started_at)
