"""Create topics for tests and development."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.urls import redacted_url
from gizmopy.pubsub.brokers.kafka.cluster import Cluster
from gizmopy.pubsub.brokers.kafka.errors import translate_errors

logger = logging.getLogger(__name__)

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
            creating = asyncio.create_task(_create(admin, new))
            try:
                is_ours = await asyncio.shield(creating)
            except asyncio.CancelledError:
                # The request is on its way: without its answer, nobody would delete the topic.
                is_ours = await creating
                raise
            while not await _has_leaders(admin, new):  # noqa: ASYNC110 - Kafka sends no notification
                await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        try:
            if is_ours:
                await _delete(admin, topic)
        finally:
            await admin.close()


async def _create(admin: AIOKafkaAdminClient, new: NewTopic) -> bool:
    """Create a topic unless it exists; return whether it did not."""
    answer = await admin.create_topics([new])
    error = for_code(answer.topic_errors[0][1])
    if error not in (NoError, TopicAlreadyExistsError):
        raise error(answer.topic_errors[0][2])
    return error is NoError


async def _delete(admin: AIOKafkaAdminClient, topic: str) -> None:
    """Delete a topic. A failure is only logged: an error here would hide that of the test."""
    try:
        answer = await admin.delete_topics([topic])
        error = for_code(answer.topic_error_codes[0][1])
    except KafkaError as raised:
        error = type(raised)
    if error is not NoError:
        logger.warning("topic %r is left: it cannot be deleted (%s)", topic, error.__name__)


async def _has_leaders(admin: AIOKafkaAdminClient, new: NewTopic) -> bool:
    (found,) = await admin.describe_topics([new.name])
    ready = [each for each in found["partitions"] if not each["error_code"]]
    return not found["error_code"] and len(ready) >= new.num_partitions
