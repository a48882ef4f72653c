"""What publishers and subscribers count: the ``gizmo_pubsub_*`` metrics, a cell for each."""

from __future__ import annotations

from gizmopy.observe.metrics import CounterCell, Metrics


class PublisherMetrics:
    """The cells of one topic."""

    def __init__(self, metrics: Metrics, topic: str) -> None:
        failures = metrics.counter(
            "gizmo_pubsub_publish_failures",
            "Messages that were not published, by kind of failure",
            ("topic", "kind"),
        )
        kinds = ("transient", "permanent", "oversize", "encode", "closed")
        self.failures = {kind: failures.cell(topic, kind) for kind in kinds}
        self.seconds = metrics.histogram(
            "gizmo_pubsub_publish_seconds",
            "Seconds from the call of publish to the broker's confirmation",
            ("topic",),
        ).cell(topic)
        self.buffered = metrics.gauge(
            "gizmo_pubsub_publish_buffered",
            "Messages that wait to be sent, are being sent, or wait to be sent again",
            ("topic",),
        ).cell(topic)


class SubscriberMetrics:
    """The cells of one subscription."""

    def __init__(self, metrics: Metrics, topic: str, subscription: str) -> None:
        labels = ("topic", "subscription")
        values = (topic, subscription)

        def counter(name: str, text: str) -> CounterCell:
            return metrics.counter(f"gizmo_pubsub_{name}", text, labels).cell(*values)

        self.received = counter("received", "Messages received")
        self.redelivered = counter("redelivered", "Messages that the broker had delivered before")
        self.retries = counter("retries", "Handlings that failed and are tried again")
        self.settle_failures = counter("settle_failures", "Settlings that the broker refused")
        self.in_flight = metrics.gauge(
            "gizmo_pubsub_in_flight", "Messages received and not settled", labels
        ).cell(*values)
        self.process_seconds = metrics.histogram(
            "gizmo_pubsub_process_seconds", "Seconds that a handler ran", labels
        ).cell(*values)
        settled = metrics.counter(
            "gizmo_pubsub_settled", "Messages settled, by outcome", (*labels, "outcome")
        )
        outcomes = ("ack", "nack", "dead_letter", "released")
        self.settled = {outcome: settled.cell(*values, outcome) for outcome in outcomes}
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

    def count_dead_letter(self, reason: str) -> None:
        """Count a dead letter that is confirmed."""
        self._dead_lettered.cell(*self._values, reason).value += 1

    def count_stuck(self, reason: str) -> None:
        """Count a message that should be dead-lettered and cannot."""
        self._stuck.cell(*self._values, reason).value += 1

    def count_extension(self, error: Exception | None) -> None:
        """Count a lease extended, or not."""
        self._extensions.cell(*self._values, "ok" if error is None else "failed").value += 1
