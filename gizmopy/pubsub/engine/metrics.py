"""The ``gizmo_pubsub_*`` metrics of publishers and subscribers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import nan
from typing import Literal, get_args

from gizmopy.observe.metrics import CounterChild, Gauge, GaugeChild, HistogramChild, Metrics
from gizmopy.pubsub.driver import Measured, Status
from gizmopy.pubsub.engine.observer import Observer, PublishFailure
from gizmopy.pubsub.message import Message


class PublisherMetrics(Observer):
    """Count the messages that are published to one topic."""

    never_raises = True

    def __init__(self, metrics: Metrics, topic: str) -> None:
        failures = metrics.counter(
            "gizmo_pubsub_publish_failures",
            "Messages that were not published, by kind of failure",
            ("topic", "kind"),
        )
        kinds: tuple[PublishFailure, ...] = get_args(PublishFailure)
        self._failures = {kind: failures.child(topic, kind) for kind in kinds}
        self._seconds = metrics.histogram(
            "gizmo_pubsub_publish_seconds",
            "Seconds from the call of publish to the broker's confirmation",
            ("topic",),
        ).child(topic)
        self.buffered = metrics.gauge(
            "gizmo_pubsub_publish_buffered",
            "Messages that wait to be sent, are being sent, or wait to be sent again",
            ("topic",),
        ).child(topic)
        """A level, not a sum of events: the buffer sets it."""

    @property
    def count(self) -> float:
        """How many messages were published to the topic, or not."""
        return sum(self._seconds.counts) + sum(each.value for each in self._failures.values())

    def published(self, message: Message, seconds: float) -> None:
        """Count the seconds until the broker confirmed a message."""
        # HistogramChild.observe, written out: the call would be 2 % of a publish to memory://, and
        # the search in the bounds 3 %, although such a publish is always in the first bucket.
        histogram = self._seconds
        bounds = histogram.bounds
        place = bisect_left(bounds, seconds) if seconds > bounds[0] else 0
        histogram.counts[place] += 1
        histogram.total += seconds

    def publish_failed(self, topic: str, kind: PublishFailure) -> None:
        """Count a message that was not published."""
        self._failures[kind].value += 1


_LABELS = ("topic", "subscription")


class SubscriberMetrics(Observer):
    """Count the events of one subscription."""

    never_raises = True

    def __init__(self, metrics: Metrics, topic: str, subscription: str) -> None:
        values = (topic, subscription)

        def counter(name: str, text: str) -> CounterChild:
            return metrics.counter(f"gizmo_pubsub_{name}", text, _LABELS).child(*values)

        def histogram(name: str, text: str) -> HistogramChild:
            return metrics.histogram(f"gizmo_pubsub_{name}", text, _LABELS).child(*values)

        self._values = values
        self._received = counter("received", "Messages received")
        self._redelivered = counter("redelivered", "Messages that the broker had delivered before")
        self._retries = counter("retries", "Failed attempts after which a message is retried")
        self._postponed = counter("postponed", "Attempts that were postponed without a failure")
        self._settle_failures = counter("settle_failures", "Settles that the broker refused")
        self._stale_settles = counter(
            "stale_settles", "Messages handled after their lease or partition was lost"
        )
        self._lost = counter("lost", "Messages whose lease or partition was lost before the settle")
        self._blocked = counter(
            "blocked", "Times that the event loop was blocked for longer than the broker waits"
        )
        self._process_seconds = histogram("process_seconds", "Seconds that a handler ran")
        self._queue_wait_seconds = histogram(
            "queue_wait_seconds", "Seconds from the receipt to the first start of the handler"
        )
        settled = metrics.counter(
            "gizmo_pubsub_settled", "Messages settled, by outcome", (*_LABELS, "outcome")
        )
        outcomes = ("ack", "nack", "dead_letter", "released")
        self._settled = {outcome: settled.child(*values, outcome) for outcome in outcomes}
        self._dead_lettered = metrics.counter(
            "gizmo_pubsub_dead_lettered", "Messages dead-lettered, by reason", (*_LABELS, "reason")
        )
        self._stuck = metrics.counter(
            "gizmo_pubsub_stuck",
            "Messages that failed for good without a dead-letter channel, by reason",
            (*_LABELS, "reason"),
        )
        self._lease_extensions = metrics.counter(
            "gizmo_pubsub_lease_extensions", "Leases extended, by result", (*_LABELS, "result")
        )

    def received(self, messages: Sequence[Message]) -> None:
        """Count messages received, and those that were delivered before."""
        self._received.value += len(messages)
        self._redelivered.value += len([m for m in messages if m.delivery > 1])

    def attempts_timed(self, waits: Sequence[float], seconds: Sequence[float]) -> None:
        """Observe the waits for, and the durations of, attempts."""
        # A handler that waits is reported alone, and `observe_all` costs twice as much for one.
        if len(waits) == 1:
            self._queue_wait_seconds.observe(waits[0])
        elif waits:
            self._queue_wait_seconds.observe_all(waits)
        if len(seconds) == 1:
            self._process_seconds.observe(seconds[0])
        elif seconds:
            self._process_seconds.observe_all(seconds)

    def retried(self, message: Message, error: BaseException, delay: float) -> None:
        """Count a retry."""
        self._retries.value += 1

    def postponed(self, message: Message, delay: float) -> None:
        """Count an attempt that was postponed."""
        self._postponed.value += 1

    def dead_lettered(self, message: Message, reason: str, error: BaseException) -> None:
        """Count a dead letter by its reason."""
        self._dead_lettered.child(*self._values, reason).value += 1

    def stuck(self, message: Message, reason: str, error: BaseException) -> None:
        """Count a message without a dead-letter channel, by the reason that it needs one."""
        self._stuck.child(*self._values, reason).value += 1

    def settled(
        self, messages: Sequence[Message], outcome: str, error: BaseException | None
    ) -> None:
        """Count messages by their outcome."""
        self._settled[outcome].value += len(messages)

    def settle_failed(self, message: Message, outcome: str, error: Exception) -> None:
        """Count a settle that the broker refused."""
        self._settle_failures.value += 1

    def loop_blocked(self, seconds: float) -> None:
        """Count a blockage of the event loop."""
        self._blocked.value += 1

    def stale(self, message: Message) -> None:
        """Count a message that was handled after it was lost."""
        self._stale_settles.value += 1

    def lost(self, message: Message) -> None:
        """Count a message that was lost."""
        self._lost.value += 1

    def lease_extended(self, message: Message, result: Literal["ok", "failed", "capped"]) -> None:
        """Count an extension by its result."""
        self._lease_extensions.child(*self._values, result).value += 1


class _KnownGauge:
    """A gauge that exists once its value is known."""

    def __init__(self, gauge: Gauge, *values: str) -> None:
        self._gauge = gauge
        self._values = values
        self._child: GaugeChild | None = None

    def set(self, value: float | None) -> None:
        """Set the value; None if it is not known."""
        if self._child is None and value is not None:
            self._child = self._gauge.child(*self._values)
        if self._child is not None:
            self._child.value = nan if value is None else value


class SubscriberGauges:
    """The state of one subscription, set before a scrape."""

    def __init__(self, metrics: Metrics, topic: str, subscription: str) -> None:
        def gauge(name: str, text: str) -> GaugeChild:
            return metrics.gauge(f"gizmo_pubsub_{name}", text, _LABELS).child(topic, subscription)

        self.in_flight = gauge("in_flight", "Messages received and not settled")
        self.in_flight_bytes = gauge("in_flight_bytes", "Bytes that the messages in flight take")
        self.oldest_in_flight_seconds = gauge(
            "oldest_in_flight_seconds", "Seconds since the receipt of the oldest message in flight"
        )
        self.paused = gauge("paused", "1 if the subscription is paused, else 0")
        self.waiting = gauge(
            "waiting", "Messages that wait for their turn, their retry or their dead letter"
        )
        self.waiting_bytes = gauge("waiting_bytes", "Bytes that the messages that wait take")
        self.waiting_in_order = gauge(
            "waiting_in_order", "Messages that wait for another of their key or partition"
        )
        self.assigned_partitions = gauge(
            "assigned_partitions", "Partitions that are consumed here, if the broker has partitions"
        )
        self.commit_lag = gauge("commit_lag", "Messages handled above one that is not")
        self._values = (topic, subscription)

        def known(name: str, text: str) -> _KnownGauge:
            return _KnownGauge(
                metrics.gauge(f"gizmo_pubsub_{name}", text, _LABELS), topic, subscription
            )

        self._backlog = known("backlog", "Messages that wait at the broker, if it says so")
        self._oldest = known(
            "oldest_seconds", "Seconds since the oldest message that waits was published"
        )
        self._held = known(
            "held", "Messages that receivers of all processes have and have not settled"
        )
        self._delayed = known("delayed", "Messages at the broker that are not due yet")
        self._measured = known(
            "measured_seconds", "Seconds since the broker last answered with its figures"
        )
        self._consumer_lag = metrics.gauge(
            "gizmo_pubsub_consumer_lag",
            "Messages of a partition that are not received yet",
            (*_LABELS, "partition"),
        )

    def set_backlog(self, status: Status, measured: Measured | None, age: float | None) -> None:
        """Set what waits at the broker: as ``measured`` for all processes, else as in ``status``.

        A figure that was never known has no gauge. One that is not known any more is NaN: 0 would
        say that nothing waits.
        """
        found = measured or Measured()
        backlog, oldest = found.backlog, found.oldest
        self._backlog.set(status.backlog if backlog is None else backlog)
        self._oldest.set(status.oldest if oldest is None else oldest)
        self._held.set(found.in_flight)
        self._delayed.set(status.delayed if found.delayed is None else found.delayed)
        self._measured.set(age)

    def set_consumer_lag(self, lag: Mapping[str, int]) -> None:
        """Set the lag of each partition; 0 for those that another member consumes now."""
        for (*values, partition), child in self._consumer_lag.children():
            if tuple(values) == self._values and partition not in lag:
                child.value = 0
        for partition, messages in lag.items():
            self._consumer_lag.child(*self._values, partition).value = messages
