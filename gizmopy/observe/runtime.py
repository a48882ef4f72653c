"""Measure what Python does beneath the service: how late its event loop is, how long it collects.

Both are what a request waits for without any line of its own to blame.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from time import perf_counter

from gizmopy.observe.metrics import Metrics

_BEAT_SECONDS = 0.1
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PAUSES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_GENERATIONS = range(3)


class Runtime:
    """Measure the running event loop and the garbage collector into ``metrics``, while entered.

    A heartbeat each ``interval`` seconds shows how late the loop is. ``clock`` tells seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval: float = _BEAT_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._interval = interval
        self._last_beat = clock()
        self._collection_began = 0.0
        self._observe_lag = (
            metrics.histogram(
                "gizmo_event_loop_lag_seconds",
                "How late the event loop runs what is due.",
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
        self._collection_began = perf_counter()
        gc.callbacks.append(self._on_collection)
        self._metrics.before_scrape(self._count_tasks)
        self._last_beat = self._clock()
        self._next_beat = self._loop.call_later(self._interval, self._beat)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._next_beat.cancel()
        gc.callbacks.remove(self._on_collection)

    def seconds_since_heartbeat(self) -> float:
        """Return the seconds since the last heartbeat; any thread may ask."""
        return self._clock() - self._last_beat

    def _beat(self) -> None:
        now = self._clock()
        # A loop's timer may be a fraction of its resolution early.
        self._observe_lag(max(0.0, now - self._last_beat - self._interval))
        self._last_beat = now
        self._next_beat = self._loop.call_later(self._interval, self._beat)

    def _count_tasks(self) -> None:
        self._tasks.value = len(asyncio.all_tasks(self._loop))

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Time a collection. Thousands begin each second, but never two at a time."""
        if phase == "start":
            self._collection_began = perf_counter()
        else:
            self._observe_pause[info["generation"]](perf_counter() - self._collection_began)
