"""A user without permission for a topic or a group gets an error that names both."""

from __future__ import annotations

import pytest

from gizmopy.errors import PubSubError
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security_support import (
    BOB,
    Admin,
    a_topic,
    consume,
    publish,
    refusal,
    url,
)

# Who is let in, and may not do what it wants.


async def test_a_topic_without_permission(secure_kafka: Cluster) -> None:
    """A topic that the user may not see, publish to or consume is named, and so is the user."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.deny("TOPIC", topic)
        error = await refusal(way, topic)
    assert f"'bob' may not use topic '{topic}'" in str(error)
    assert not error.transient


async def test_a_topic_to_look_at(secure_kafka: Cluster) -> None:
    """A topic that the user may see, and neither publish to nor consume, is named by both."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.allow("TOPIC", topic, "DESCRIBE")
        error = await refusal(way, topic)
    assert f"TopicAuthorizationFailedError: {topic}" in str(error)
    assert not error.transient


async def test_a_group_without_permission(secure_kafka: Cluster) -> None:
    """A group that the user may not join is named; the topic can be published to."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.deny("GROUP", topic)
        await publish(way, topic)
        match = f"group '{topic}' cannot be joined: .*GroupAuthorizationFailed"
        with pytest.raises(PubSubError, match=match) as caught:
            await consume(way, topic)
    assert not caught.value.transient
