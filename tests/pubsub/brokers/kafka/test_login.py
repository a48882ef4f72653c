"""Logging in to Kafka: each mechanism, TLS, and the daemon's settings."""

from __future__ import annotations

import traceback

import pytest

from gizmopy.errors import StartError
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security import (
    MECHANISMS,
    PASSWORD,
    USER,
)
from tests.pubsub.brokers.kafka.security_support import (
    ALICE,
    CA,
    CERTIFICATE,
    WRONG,
    a_daemon,
    a_topic,
    consume,
    publish,
    token_login,
    url,
    valid,
)


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_each_mechanism_publishes_and_consumes(
    secure_kafka: Cluster, listener: str, mechanism: str
) -> None:
    """A user creates a topic, publishes and consumes with each mechanism, with TLS and without."""
    tls = CA if listener.endswith("SSL") else {}
    if mechanism == "OAUTHBEARER":
        way = url(secure_kafka, listener, **tls, **token_login(valid))
    else:
        way = url(secure_kafka, listener, ALICE, sasl_mechanism=mechanism, **tls)
    async with a_topic(secure_kafka, way) as topic:
        await publish(way, topic)
        assert await consume(way, topic) == b"Tom"


@pytest.mark.parametrize(
    ("listener", "files"),
    [("SSL", CA), ("SSL", CA | CERTIFICATE), ("CERTIFICATE", CA | CERTIFICATE)],
    ids=["tls", "with a certificate", "with a required certificate"],
)
async def test_tls_publishes_and_consumes(
    secure_kafka: Cluster, listener: str, files: dict[str, str]
) -> None:
    """TLS works with a private authority, with a certificate of the client and without."""
    way = url(secure_kafka, listener, **files)
    async with a_topic(secure_kafka, way) as topic:
        await publish(way, topic)
        assert await consume(way, topic) == b"Tom"


async def test_a_daemon_logs_in_by_its_settings(secure_kafka: Cluster) -> None:
    """A daemon needs only KAFKA_* settings to log in."""
    async with (
        a_topic(secure_kafka) as topic,
        a_daemon(
            KAFKA_BROKER_HOSTS=secure_kafka.listener("SASL_SSL"),
            KAFKA_TOPIC=topic,
            KAFKA_SECURITY_PROTOCOL="sasl_ssl",
            KAFKA_SASL_MECHANISM="scram-sha-256",
            KAFKA_SASL_USERNAME=USER,
            KAFKA_SASL_PASSWORD=PASSWORD,
            KAFKA_TLS_CA=str(secure_kafka.ca_file),
        ) as daemon,
    ):
        await daemon.round_trip("Tom")


async def test_a_daemon_logs_in_by_its_url(secure_kafka: Cluster) -> None:
    """GIZMO_PUBSUB_URL gives the parts that the settings leave out."""
    hosts = secure_kafka.listener("SASL_PLAINTEXT")
    async with a_topic(secure_kafka) as topic:
        url = f"kafka://{ALICE}@{hosts}/{topic}?security_protocol=sasl_plaintext"
        mechanism = "scram-sha-512"
        async with a_daemon(GIZMO_PUBSUB_URL=url, KAFKA_SASL_MECHANISM=mechanism) as daemon:
            await daemon.round_trip("Tom")


async def test_a_daemon_with_a_wrong_password_does_not_start(secure_kafka: Cluster) -> None:
    """Its start fails at once with an error that names the user and the broker."""
    hosts = secure_kafka.listener("SASL_PLAINTEXT")
    url = f"kafka://{USER}:{WRONG}@{hosts}?security_protocol=sasl_plaintext"
    with pytest.raises(
        StartError, match=f"{hosts} refuses the login of 'alice' by PLAIN"
    ) as caught:
        async with a_daemon(GIZMO_PUBSUB_URL=url):
            pass
    assert "create it there" not in str(caught.value)
    assert WRONG not in "".join(traceback.format_exception(caught.value))
