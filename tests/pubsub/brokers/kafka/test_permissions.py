"""A user without permission for a topic or a group gets an error that names both."""

from __future__ import annotations

import pytest

from gizmopy.errors import PubSubError
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security_support import (
    BOB,
    Admin,
    a_topic,
    connection_error,
    consume,
    publish,
    url,
)


async def test_a_topic_without_permission(secure_kafka: Cluster) -> None:
    """A topic that the user may not describe is an error that names both."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.deny("TOPIC", topic)
        error = await connection_error(way, topic)
    assert f"'bob' may not use topic '{topic}'" in str(error)
    assert not error.transient


async def test_a_topic_that_may_only_be_described(secure_kafka: Cluster) -> None:
    """A topic that the user may neither read nor write is an error that names it."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.allow("TOPIC", topic, "DESCRIBE")
        error = await connection_error(way, topic)
    assert f"TopicAuthorizationFailedError: {topic}" in str(error)
    assert not error.transient


async def test_a_group_without_permission(secure_kafka: Cluster) -> None:
    """A group that the user may not join is an error that names it; publishing works."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.deny("GROUP", topic)
        await publish(way, topic)
        match = f"group '{topic}' cannot be joined: .*GroupAuthorizationFailed"
        with pytest.raises(PubSubError, match=match) as caught:
            await consume(way, topic)
    assert not caught.value.transient
