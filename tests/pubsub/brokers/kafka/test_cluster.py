"""The cluster of the tests: it ends with its test, and its listeners check logins."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError

from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security import MECHANISMS, PASSWORD, USER, unsecured_token

ROOT = Path(__file__).parents[4]
SASL = pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
RUN_UNTIL_KILLED = """
import sys, pathlib
from tests.pubsub.brokers.kafka.cluster import kafka_cluster
with kafka_cluster(pathlib.Path(sys.argv[1])) as cluster:
    print(cluster.bootstrap, flush=True)
    sys.stdin.read()
"""


class Token(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """A constant token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


@asynccontextmanager
async def an_admin(bootstrap: str, **settings: Any) -> AsyncIterator[Any]:
    """Provide a client that needs no topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **settings)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def brokers(admin: Any) -> list[int]:
    """Return the ids of the cluster's nodes."""
    described = await admin.describe_cluster()
    return [broker["node_id"] for broker in described["brokers"]]


@pytest.mark.usefixtures("need_real_kafka")
def test_a_node_dies_with_its_test(tmp_path: Path) -> None:
    """A node ends when the process of its test is killed."""
    command = [sys.executable, "-c", RUN_UNTIL_KILLED, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        host, port = run.stdout.readline().strip().split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            run.kill()
            with suppress(ConnectionResetError):  # the node died before it accepted the connection
                assert connection.recv(1) == b""


async def test_asking_for_a_topic_does_not_create_it(real_kafka: Cluster) -> None:
    """A request for a topic that does not exist returns an error."""
    async with an_admin(real_kafka.bootstrap) as admin:
        [described] = await admin.describe_topics(["never-created"])
    assert described["error_code"] == 3  # UNKNOWN_TOPIC_OR_PARTITION


@SASL
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_each_mechanism_accepts_the_user(
    secure_kafka: Cluster, protocol: str, mechanism: str
) -> None:
    """The user logs in with each mechanism, with TLS and without."""
    who = credentials(mechanism, PASSWORD, unsecured_token())
    async with an_admin(**a_client(secure_kafka, protocol), **who) as admin:
        assert await brokers(admin) == [1]


@SASL
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_each_mechanism_refuses_a_wrong_password(
    secure_kafka: Cluster, protocol: str, mechanism: str
) -> None:
    """A wrong password and an expired token are refused, with TLS and without."""
    who = credentials(mechanism, "wrong", unsecured_token(lifetime=-1))
    # aiokafka takes a refused token for an accepted one, and then finds that no broker answers.
    with pytest.raises((KafkaConnectionError, NodeNotReadyError)):
        async with an_admin(**a_client(secure_kafka, protocol), **who) as admin:
            await brokers(admin)


async def test_a_client_connects_with_and_without_a_certificate(secure_kafka: Cluster) -> None:
    """A client may have a certificate of the cluster's authority, or none."""
    client = a_client(secure_kafka, "SSL")
    async with an_admin(**client) as admin:
        assert await brokers(admin) == [1]
    client["ssl_context"].load_cert_chain(secure_kafka.client_cert, secure_kafka.client_key)
    async with an_admin(**client) as admin:
        assert await brokers(admin) == [1]


async def test_a_certificate_of_another_authority_is_refused(secure_kafka: Cluster) -> None:
    """A client whose certificate comes from another authority cannot connect."""
    client = a_client(secure_kafka, "SSL")
    trustme.CA().issue_cert("mallory@example.org").configure_cert(client["ssl_context"])
    with pytest.raises(KafkaConnectionError):
        async with an_admin(**client):
            pass


async def test_the_cluster_has_a_certificate(secure_kafka: Cluster) -> None:
    """A client that does not trust the cluster's authority does not connect."""
    client = a_client(secure_kafka, "SSL") | {"ssl_context": ssl.create_default_context()}
    with pytest.raises(KafkaConnectionError):
        async with an_admin(**client):
            pass


def a_client(cluster: Cluster, protocol: str) -> dict[str, Any]:
    """Return the settings of a client that trusts the cluster's authority."""
    context = ssl.create_default_context(cafile=str(cluster.ca_file))
    bootstrap = cluster.listener(protocol)
    return {"bootstrap": bootstrap, "security_protocol": protocol, "ssl_context": context}


def credentials(mechanism: str, password: str, token: str) -> dict[str, Any]:
    """Return the settings of a login; the mechanism decides which of them are used."""
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": USER,
        "sasl_plain_password": password,
        "sasl_oauth_token_provider": Token(token),
    }
