"""The cluster that tests run on is what a driver will meet: it lasts, and it is guarded."""

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
    """A token that never changes."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


@asynccontextmanager
async def an_admin(bootstrap: str, **settings: Any) -> AsyncIterator[Any]:
    """Give a client that needs no topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **settings)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def brokers(admin: Any) -> list[int]:
    """Return the nodes that the cluster says it has."""
    described = await admin.describe_cluster()
    return [broker["node_id"] for broker in described["brokers"]]


@pytest.mark.usefixtures("need_real_kafka")
def test_a_node_dies_with_its_test(tmp_path: Path) -> None:
    """Nothing is left of a test that was killed."""
    command = [sys.executable, "-c", RUN_UNTIL_KILLED, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        host, port = run.stdout.readline().strip().split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            run.kill()
            with suppress(ConnectionResetError):  # the node died before it had accepted it
                assert connection.recv(1) == b""


async def test_a_topic_is_not_made_by_its_use(real_kafka: Cluster) -> None:
    """Whoever asks for a topic that nobody has created is told that there is none."""
    async with an_admin(real_kafka.bootstrap) as admin:
        [described] = await admin.describe_topics(["never-created"])
    assert described["error_code"] == 3  # UNKNOWN_TOPIC_OR_PARTITION


@SASL
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_the_user_is_let_in(secure_kafka: Cluster, protocol: str, mechanism: str) -> None:
    """Each mechanism lets the user in, with TLS and without."""
    who = credentials(mechanism, PASSWORD, unsecured_token())
    async with an_admin(**a_client(secure_kafka, protocol), **who) as admin:
        assert await brokers(admin) == [1]


@SASL
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_stranger_is_not_let_in(
    secure_kafka: Cluster, protocol: str, mechanism: str
) -> None:
    """Each mechanism refuses a wrong password and an expired token, with TLS and without."""
    who = credentials(mechanism, "wrong", unsecured_token(lifetime=-1))
    # aiokafka takes a refused token for an accepted one, and then finds no broker that answers.
    with pytest.raises((KafkaConnectionError, NodeNotReadyError)):
        async with an_admin(**a_client(secure_kafka, protocol), **who) as admin:
            await brokers(admin)


async def test_a_certificate_lets_in(secure_kafka: Cluster) -> None:
    """A client with a certificate of the cluster's authority is let in, and so is one without."""
    client = a_client(secure_kafka, "SSL")
    async with an_admin(**client) as admin:
        assert await brokers(admin) == [1]
    client["ssl_context"].load_cert_chain(secure_kafka.client_cert, secure_kafka.client_key)
    async with an_admin(**client) as admin:
        assert await brokers(admin) == [1]


async def test_a_strange_certificate_is_refused(secure_kafka: Cluster) -> None:
    """A client whose certificate is of another authority is not let in."""
    client = a_client(secure_kafka, "SSL")
    trustme.CA().issue_cert("mallory@example.org").configure_cert(client["ssl_context"])
    with pytest.raises(KafkaConnectionError):
        async with an_admin(**client):
            pass


async def test_the_cluster_proves_who_it_is(secure_kafka: Cluster) -> None:
    """A client that does not trust the cluster's authority does not connect."""
    client = a_client(secure_kafka, "SSL") | {"ssl_context": ssl.create_default_context()}
    with pytest.raises(KafkaConnectionError):
        async with an_admin(**client):
            pass


def a_client(cluster: Cluster, protocol: str) -> dict[str, Any]:
    """Return settings of a client that trusts the cluster's authority."""
    context = ssl.create_default_context(cafile=str(cluster.ca_file))
    bootstrap = cluster.listener(protocol)
    return {"bootstrap": bootstrap, "security_protocol": protocol, "ssl_context": context}


def credentials(mechanism: str, password: str, token: str) -> dict[str, Any]:
    """Return settings of a client that says who it is; which of them count, the mechanism says."""
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": USER,
        "sasl_plain_password": password,
        "sasl_oauth_token_provider": Token(token),
    }
