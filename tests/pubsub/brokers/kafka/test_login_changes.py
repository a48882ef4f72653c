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
    changing,
    endless,
    expired,
    raising,
    strict_login,
    token_login,
    until,
    with_tokens_of,
)

pytestmark = pytest.mark.usefixtures("short_checks")

# On the strict listener a login expires after 2 s.


async def test_an_expired_login_is_renewed(
    secure_kafka: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker closes connections whose login has expired; nothing is lost or reported."""
    caplog.set_level(logging.INFO, "aiokafka.conn")
    url = f"kafka://{ALICE}@{secure_kafka.listener('STRICT')}"
    number, logins = 0, 0
    async with a_topic(secure_kafka) as topic, a_daemon(**strict_login(url, topic)) as daemon:
        await daemon.round_trip("0")
        logins = caplog.text.count("Authenticated as alice")
        while caplog.text.count("Authenticated as alice") < logins + 6:
            number += 1
            await daemon.round_trip(str(number))
        await until(lambda: not (daemon.problem or daemon.unpublished))
        seen = list(map(int, daemon.seen))
    assert sorted(set(seen)) == list(range(number + 1))


async def test_a_user_is_removed_and_comes_back(secure_kafka: Cluster) -> None:
    """A daemon whose user is removed reports that, and recovers once the user is back."""
    admin = Admin(secure_kafka)
    await admin.add_user("carol", "carol-secret")
    url = f"kafka://carol:carol-secret@{secure_kafka.listener('STRICT')}"
    async with a_topic(secure_kafka) as topic, a_daemon(**strict_login(url, topic)) as daemon:
        await daemon.round_trip("before")
        await admin.remove_user("carol")
        await until(lambda: "refuses the login of 'carol' by SCRAM-SHA-512" in daemon.problem)
        with pytest.raises(PubSubError, match="not confirmed within 2 s"):
            await daemon.publish("cats", "meanwhile")
        for _ in range(2):
            with pytest.raises(PubSubError, match="refuses the login of 'carol' by SCRAM-SHA-512"):
                await daemon.publish("cats", "meanwhile")
        assert "refuses the login of 'carol' by SCRAM-SHA-512" in daemon.unpublished
        await admin.add_user("carol", "carol-secret")
        await daemon.round_trip("after")
        await until(lambda: not (daemon.problem or daemon.unpublished))


@pytest.mark.parametrize("function", [raising, endless, expired], ids=lambda f: f.__name__)
async def test_tokens_end_and_come_back(secure_kafka: Cluster, function: Callable[[], Any]) -> None:
    """A daemon without a token reports that, and recovers once there is a token again."""
    url = f"kafka://{secure_kafka.listener('STRICT')}"
    async with (
        a_topic(secure_kafka) as topic,
        a_daemon(
            **strict_login(
                url,
                topic,
                KAFKA_SASL_MECHANISM="oauthbearer",
                KAFKA_SASL_TOKEN_PROVIDER=token_login(changing)["sasl_token_provider"],
            )
        ) as daemon,
    ):
        await daemon.round_trip("before")
        with with_tokens_of(function):
            await until(lambda: "changing" in daemon.problem)
        await until(lambda: not daemon.problem)
        await daemon.round_trip("after")


async def test_a_permission_is_revoked_and_granted_again(secure_kafka: Cluster) -> None:
    """A daemon that may not consume any more reports that, and recovers once it may again."""
    admin = Admin(secure_kafka)
    url = f"kafka://{BOB}@{secure_kafka.listener('SASL_PLAINTEXT')}"
    async with (
        a_topic(secure_kafka) as topic,
        a_daemon(**strict_login(url, topic, KAFKA_SASL_MECHANISM="plain")) as daemon,
    ):
        await daemon.round_trip("before")
        await admin.deny("TOPIC", topic)
        await until(lambda: f"'bob' may not use topic '{topic}'" in daemon.problem)
        with pytest.raises(PubSubError, match="TopicAuthorizationFailedError"):
            await daemon.publish("cats", "meanwhile")
        await admin.allow_all("TOPIC", topic)
        await until(lambda: not daemon.problem)
        await daemon.round_trip("after")
