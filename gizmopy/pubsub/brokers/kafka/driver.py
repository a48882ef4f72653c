"""Make the senders and receivers of one cluster."""

from __future__ import annotations

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import StartError
from gizmopy.pubsub.brokers.kafka.browser import KafkaBrowser
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.producers import SharedProducers
from gizmopy.pubsub.brokers.kafka.receiver import KafkaReceiver
from gizmopy.pubsub.brokers.kafka.sender import KafkaSender
from gizmopy.pubsub.driver import Capabilities, Limits
from gizmopy.pubsub.event_binding import KAFKA

_BATCH_MESSAGES = 1000
_BATCH_BYTES = 16 * 1024 * 1024
"""The most bytes of one send; a broker closes a connection with a request above 100 MiB."""


class KafkaDriver:
    """One cluster, reached by ``settings``.

    The senders share a producer. Each receiver has its own connections.

    ``url`` is the cluster's URL without secrets, for errors.
    """

    def __init__(self, settings: KafkaSettings, url: str) -> None:
        self.capabilities = Capabilities(
            ordering=True,
            can_nack=False,
            native_delay=False,
            lease=None,
            silence=settings.session_timeout.total_seconds(),
            positions=True,
            delivery_count=False,
            process_local=False,
            batch_messages=_BATCH_MESSAGES,
            batch_bytes=_BATCH_BYTES,
            message_bytes=settings.max_message_bytes,
            ordered_batches=True,
            client_retries=True,
            can_pause=True,
            can_pause_all=True,
            can_browse=True,
            delivery_timeout=settings.delivery_timeout.total_seconds(),
            events=KAFKA,
        )
        self._cluster = Cluster(settings, url)
        self._producers = SharedProducers(self._cluster, settings)
        self._settings = settings
        self._subscriptions: dict[str, str] = {}
        """The first subscription to each topic."""
        self._corrupt_topics: set[str] = set()

    def sender(self, topic: str) -> KafkaSender:
        """Return a sender to ``topic``."""
        return KafkaSender(
            self._cluster, self._settings, topic, Limits.of(self.capabilities), self._producers
        )

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> KafkaReceiver:
        """Return a member of the group ``subscription``, or of the ``group`` in the settings.

        Raises StartError if two subscriptions to a topic would be the same group.
        """
        group = self._settings.group
        first = self._subscriptions.setdefault(topic, subscription)
        if group and first != subscription:
            raise StartError(
                f"the subscriptions {first!r} and {subscription!r} to {topic!r} would share "
                f"group={group}, and each would get only a part of the messages; leave group out "
                "of the URL"
            )
        group = group or subscription
        return KafkaReceiver(self._cluster, self._settings, topic, group, self._corrupt_topics)

    def browser(self, topic: str, subscription: str) -> KafkaBrowser:
        """Return a browser, whose group is ``subscription``."""
        return KafkaBrowser(self._cluster, topic, subscription, self.sender(topic))

    async def aclose(self) -> None:
        """Wait until the producer is stopped that the last sender has left."""
        await self._producers.aclose()
