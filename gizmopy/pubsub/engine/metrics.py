"""What publishers and subscribers count: the ``gizmo_pubsub_*`` metrics, a child for each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import get_args

from gizmopy.observe.metrics import CounterChild, GaugeChild, HistogramChild, Metrics
from gizmopy.pubsub.engine.observer import Observer, PublishFailure
from gizmopy.pubsub.message import Message


class PublisherMetrics(Observer):
    """Count the messages that are published to one topic."""

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

    def published(self, message: Message, seconds: float) -> None:
        """Count the seconds until the broker confirmed a message."""
        # HistogramChild.observe, written out: the call would be 2 % of a publish to memory://.
        histogram = self._seconds
        histogram.counts[bisect_left(histogram.bounds, seconds)] += 1
        histogram.total += seconds

    def publish_failed(self, topic: str, kind: PublishFailure) -> None:
        """Count a message that was not published."""
        self._failures[kind].value += 1


class SubscriberMetrics:
    """The children of one subscription."""

    def __init__(self, metrics: Metrics, topic: str, subscription: str) -> None:
        labels = ("topic", "subscription")
        values = (topic, subscription)

        def counter(name: str, text: str) -> CounterChild:
            return metrics.counter(f"gizmo_pubsub_{name}", text, labels).child(*values)

        def gauge(name: str, text: str) -> GaugeChild:
            return metrics.gauge(f"gizmo_pubsub_{name}", text, labels).child(*values)

        def histogram(name: str, text: str) -> HistogramChild:
            return metrics.histogram(f"gizmo_pubsub_{name}", text, labels).child(*values)

        self.received = counter("received", "Messages received")
        self.redelivered = counter("redelivered", "Messages that the broker had delivered before")
        self.retries = counter("retries", "Handlings that failed and are tried again")
        self.postponed = counter("postponed", "Handlings put off without a failure")
        self.settle_failures = counter("settle_failures", "Settlings that the broker refused")
        self.stale_settles = counter(
            "stale_settles", "Messages handled after their lease or partition was lost"
        )
        self.lost = counter("lost", "Messages whose lease or partition was lost before the settle")
        self.in_flight = gauge("in_flight", "Messages received and not settled")
        self.in_flight_bytes = gauge("in_flight_bytes", "Bytes that the messages in flight take")
        self.oldest_in_flight_seconds = gauge(
            "oldest_in_flight_seconds", "Seconds since the receipt of the oldest message in flight"
        )
        self.waiting_in_order = gauge(
            "waiting_in_order", "Messages that wait for another of their key or partition"
        )
        self.assigned_partitions = gauge(
            "assigned_partitions", "Partitions that are consumed here, where the broker has some"
        )
        self.commit_lag = gauge("commit_lag", "Messages handled above one that is not")
        self.process_seconds = histogram("process_seconds", "Seconds that a handler ran")
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds", "Seconds from the receipt to the first start of the handler"
        )
        settled = metrics.counter(
            "gizmo_pubsub_settled", "Messages settled, by outcome", (*labels, "outcome")
        )
        outcomes = ("ack", "nack", "dead_letter", "released")
        self.settled = {outcome: settled.child(*values, outcome) for outcome in outcomes}
        self._values = values
        self._dead_lettered = metrics.counter(
            "gizmo_pubsub_dead_lettered", "Messages dead-lettered, by reason", (*labels, "reason")
        )
        self._stuck = metrics.counter(
            "gizmo_pubsub_stuck",
            "Handlings given up that have no dead letter channel to go to, by reason",
            (*labels, "reason"),
        )
        self._extensions = metrics.counter(
            "gizmo_pubsub_lease_extensions", "Leases extended, by result", (*labels, "result")
        )
        self._consumer_lag = metrics.gauge(
            "gizmo_pubsub_consumer_lag",
            "Messages of a partition that are not received yet",
            (*labels, "partition"),
        )

    def count_dead_letter(self, reason: str) -> None:
        """Count a dead letter that is confirmed."""
        self._dead_lettered.child(*self._values, reason).value += 1

    def count_stuck(self, reason: str) -> None:
        """Count a message that should be dead-lettered and cannot."""
        self._stuck.child(*self._values, reason).value += 1

    def count_extension(self, result: str) -> None:
        """Count a lease extended (``ok``), refused (``failed``) or too old (``capped``)."""
        self._extensions.child(*self._values, result).value += 1

    def set_consumer_lag(self, lag: Mapping[str, int]) -> None:
        """Set how far behind each partition is; those that are consumed elsewhere now count 0."""
        for (*values, partition), child in self._consumer_lag.children():
            if tuple(values) == self._values and partition not in lag:
                child.value = 0
        for partition, messages in lag.items():
            self._consumer_lag.child(*self._values, partition).value = messages
