"""Logins, users and permissions that change while a daemon runs."""

from __future__ import annotations

import logging
from collections.abc import (
    Callable,
)
from typing import Any

import pytest

from gizmopy.errors import PubSubError
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security_support import (
    ALICE,
    BOB,
    Admin,
    a_daemon,
    a_topic,
    by,
    changing,
    endless,
    expired,
    giving,
    sealed,
    strict,
    until,
)

pytestmark = pytest.mark.usefixtures("short_checks")

# On the strict listener a login expires after 2 s.


async def test_a_login_that_is_over_is_renewed(
    secure_kafka: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections that the broker cuts for want of a new login lose nothing, and nobody notices."""
    caplog.set_level(logging.INFO, "aiokafka.conn")
    url = f"kafka://{ALICE}@{secure_kafka.listener('STRICT')}"
    number, logins = 0, 0
    async with a_topic(secure_kafka) as topic, a_daemon(**strict(url, topic)) as daemon:
        await daemon.passes_on("0")
        logins = caplog.text.count("Authenticated as alice")
        while caplog.text.count("Authenticated as alice") < logins + 6:
            number += 1
            await daemon.passes_on(str(number))
        await until(lambda: not (daemon.problem or daemon.unpublished))
        seen = list(map(int, daemon.seen))
    assert sorted(set(seen)) == list(range(number + 1))


async def test_a_user_is_removed_and_comes_back(secure_kafka: Cluster) -> None:
    """A daemon whose user is removed says so, and goes on by itself once the user is back."""
    admin = Admin(secure_kafka)
    await admin.let_in("carol", "carol-secret")
    url = f"kafka://carol:carol-secret@{secure_kafka.listener('STRICT')}"
    async with a_topic(secure_kafka) as topic, a_daemon(**strict(url, topic)) as daemon:
        await daemon.passes_on("before")
        await admin.shut_out("carol")
        await until(lambda: "refuses the login of 'carol' by SCRAM-SHA-512" in daemon.problem)
        with pytest.raises(PubSubError, match="not confirmed within 2 s"):
            await daemon.publish("cats", "meanwhile")
        for _ in range(2):
            with pytest.raises(PubSubError, match="refuses the login of 'carol' by SCRAM-SHA-512"):
                await daemon.publish("cats", "meanwhile")
        assert "refuses the login of 'carol' by SCRAM-SHA-512" in daemon.unpublished
        await admin.let_in("carol", "carol-secret")
        await daemon.passes_on("after")
        await until(lambda: not (daemon.problem or daemon.unpublished))


@pytest.mark.parametrize("function", [sealed, endless, expired], ids=lambda f: f.__name__)
async def test_tokens_end_and_come_back(secure_kafka: Cluster, function: Callable[[], Any]) -> None:
    """A daemon without a token says so, and goes on by itself once there is one again."""
    url = f"kafka://{secure_kafka.listener('STRICT')}"
    async with (
        a_topic(secure_kafka) as topic,
        a_daemon(
            **strict(
                url,
                topic,
                KAFKA_SASL_MECHANISM="oauthbearer",
                KAFKA_SASL_TOKEN_PROVIDER=by(changing)["sasl_token_provider"],
            )
        ) as daemon,
    ):
        await daemon.passes_on("before")
        with giving(function):
            await until(lambda: "changing" in daemon.problem)
        await until(lambda: not daemon.problem)
        await daemon.passes_on("after")


async def test_a_permission_is_taken_and_given_back(secure_kafka: Cluster) -> None:
    """A daemon that may not consume any more says so, and goes on once it may again."""
    admin = Admin(secure_kafka)
    url = f"kafka://{BOB}@{secure_kafka.listener('SASL_PLAINTEXT')}"
    async with (
        a_topic(secure_kafka) as topic,
        a_daemon(**strict(url, topic, KAFKA_SASL_MECHANISM="plain")) as daemon,
    ):
        await daemon.passes_on("before")
        await admin.deny("TOPIC", topic)
        await until(lambda: f"'bob' may not use topic '{topic}'" in daemon.problem)
        with pytest.raises(PubSubError, match="TopicAuthorizationFailedError"):
            await daemon.publish("cats", "meanwhile")
        await admin.allow_all("TOPIC", topic)
        await until(lambda: not daemon.problem)
        await daemon.passes_on("after")
