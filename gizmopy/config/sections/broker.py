"""Settings of brokers: which broker each channel uses, and how messages are published."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.channel_names import FromPrefix, by_channel_key
from gizmopy.config.duration import Duration, PositiveDuration
from gizmopy.config.sections.base import SectionBase, Text, setting
from gizmopy.config.urls import BrokerUrl


class PublishSettings(SectionBase):
    """How messages are published."""

    publish_linger: Duration = setting(
        "GIZMO_PUBLISH_LINGER",
        timedelta(0),
        "Time that a batch of published messages waits for more messages. 0s: no wait.",
    )
    publish_stall: PositiveDuration = setting(
        "GIZMO_PUBLISH_STALL",
        timedelta(seconds=5),
        "Time that a send may wait for the broker before the health check publishers fails.",
    )


class BrokerSettings(SectionBase):
    """The broker of the daemon and of single channels, and settings of each kind of broker."""

    pubsub_url: BrokerUrl = setting(
        "GIZMO_PUBSUB_URL",
        "memory://",
        "URL of the broker for channels without a URL of their own.",
    )
    topics: Annotated[dict[Text, BrokerUrl], FromPrefix("GIZMO_TOPIC_")] = Field(
        default_factory=dict, description="URL that one channel is published to, by channel."
    )
    subscriptions: Annotated[dict[Text, BrokerUrl], FromPrefix("GIZMO_SUBSCRIPTION_")] = Field(
        default_factory=dict, description="URL that one channel is consumed from, by channel."
    )
    kafka: KafkaSettings = Field(
        default_factory=KafkaSettings,
        description="Settings of Kafka. A parameter in the query of a kafka:// URL overrides each.",
    )

    @property
    def broker_url(self) -> str:
        """The complete URL of the broker for channels without their own URL.

        If no URL is given, and ``KAFKA_BROKER_HOSTS`` is, it is the URL of these brokers.
        """
        uses_kafka = self.kafka.broker_hosts and "pubsub_url" not in self.model_fields_set
        return self.kafka.with_defaults(
            "kafka://" if uses_kafka else self.pubsub_url, self.kafka.topic
        )

    @property
    def topic_urls(self) -> dict[str, str]:
        """The complete URLs that single channels are published to, by channel."""
        return {key: self.kafka.with_defaults(url) for key, url in self.topics.items()}

    @property
    def subscription_urls(self) -> dict[str, str]:
        """The complete URLs that single channels are consumed from, by channel."""
        return {key: self.kafka.with_defaults(url) for key, url in self.subscriptions.items()}

    @field_validator("topics", "subscriptions", mode="before")
    @classmethod
    def _spell_keys(cls, urls: object) -> object:
        return by_channel_key(urls)
