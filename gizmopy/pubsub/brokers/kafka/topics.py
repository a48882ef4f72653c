"""Create topics for tests and development."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.urls import redacted_url
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.errors import translate_errors

_POLL_SECONDS = 0.1
"""How often a broker is asked whether it has a new topic."""


@asynccontextmanager
async def provision(url: str, topic: str, subscriptions: Sequence[str]) -> AsyncIterator[None]:
    """Create a topic, and delete it afterwards, unless it was there before.

    It is deleted after an error and a cancellation, too. Groups need no creation.
    ``partitions`` and ``replication_factor`` come from ``url``. Raises PubSubError.
    """
    settings = KafkaSettings.from_url(url)
    admin = AIOKafkaAdminClient(**Cluster(settings, redacted_url(url, with_path=True)).options())
    replicas = settings.replication_factor
    new = NewTopic(topic, settings.partitions, replicas, {} if replicas < 0 else None)
    with translate_errors(f"topic {topic!r} cannot be created"):
        await admin.start()
    is_ours = False
    try:
        with translate_errors(f"topic {topic!r} cannot be created"):
            is_ours = await _create(admin, new)
            while not await _has_leaders(admin, new):  # noqa: ASYNC110 - Kafka sends no notification
                await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        try:
            if is_ours:
                with suppress(KafkaError):
                    await admin.delete_topics([topic])
        finally:
            await admin.close()


async def _create(admin: AIOKafkaAdminClient, new: NewTopic) -> bool:
    """Create a topic unless it exists; return whether it did not."""
    answer = await admin.create_topics([new])
    error = for_code(answer.topic_errors[0][1])
    if error not in (NoError, TopicAlreadyExistsError):
        raise error(answer.topic_errors[0][2])
    return error is NoError


async def _has_leaders(admin: AIOKafkaAdminClient, new: NewTopic) -> bool:
    (found,) = await admin.describe_topics([new.name])
    ready = [each for each in found["partitions"] if not each["error_code"]]
    return not found["error_code"] and len(ready) >= new.num_partitions
