"""Listeners of a secured cluster, token functions, a daemon that logs in, and an administrator."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Hashable,
    Iterator,
    Mapping,
)
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import confluent_kafka.admin
import pytest

from gizmopy import Message, Service, Settings, subscribe
from gizmopy.config import load
from gizmopy.errors import PubSubError
from gizmopy.pubsub import registry as drivers
from gizmopy.server import SimpleServer
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security import (
    OTHER,
    OTHER_PASSWORD,
    PASSWORD,
    PROTOCOLS,
    USER,
    unsecured_token,
)
from tests.pubsub.brokers.kafka.support import short_sleep

ALICE = f"{USER}:{PASSWORD}"
BOB = f"{OTHER}:{OTHER_PASSWORD}"
WRONG = "s3cr3t-and-wrong"
TOKEN = unsecured_token()
CA = {"tls_ca": "{ca}"}
CERTIFICATE = {"tls_cert": "{cert}", "tls_key": "{key}"}
LONG = 40.0
"""Seconds after which a test has waited far too long."""


# Token functions.


async def valid() -> str:
    """Return a token that the brokers accept."""
    return TOKEN


async def expired() -> str:
    """Return a token that is no longer valid."""
    return unsecured_token(lifetime=-1)


async def malformed() -> str:
    """Return a text that is not a token."""
    return "malformed"


async def returning_none() -> None:
    """Return None in place of a token."""


async def raising() -> str:
    """Raise an error, as if the store of the token were unavailable."""
    raise RuntimeError("the vault is raising")


async def endless() -> str:
    """Never return."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def not_async() -> str:
    """Return a token from a function that is not async."""
    return TOKEN


async def changing() -> str:
    """Call the function that a test has set."""
    given: str = await Tokens.give()
    return given


class Tokens:
    """Hold the function that ``changing`` calls."""

    give: Callable[[], Any] = staticmethod(valid)


@contextmanager
def with_tokens_of(function: Callable[[], Any]) -> Iterator[None]:
    """Let ``changing`` call another function while the context lasts."""
    Tokens.give = staticmethod(function)
    try:
        yield
    finally:
        Tokens.give = staticmethod(valid)


def token_login(function: Callable[[], Any]) -> dict[str, str]:
    """Return the URL parameters of a login with the tokens of a function."""
    provider = f"{function.__module__}:{function.__name__}"
    return {"sasl_mechanism": "oauthbearer", "sasl_token_provider": provider}


# Clients.


def url(cluster: Cluster, listener: str, login: str = "", **parameters: str) -> str:
    """Return the URL of a listener, with its usual protocol unless ``parameters`` differ."""
    files = {"ca": cluster.ca_file, "cert": cluster.client_cert, "key": cluster.client_key}
    speaks = {"security_protocol": PROTOCOLS.get(listener, "PLAINTEXT"), "partitions": "1"}
    given = {name: value.format_map(files) for name, value in parameters.items()}
    at = f"{login}@" if login else ""
    return f"kafka://{at}{cluster.listener(listener)}?{urlencode(speaks | given)}"


@asynccontextmanager
async def a_topic(cluster: Cluster, through: str = "") -> AsyncIterator[str]:
    """Create a topic, token_login default through the listener without a login."""
    topic = f"cats-{uuid4().hex[:8]}"
    async with drivers.provision(through or url(cluster, "PLAINTEXT", partitions="1"), topic):
        yield topic


async def no_revoke(partitions: Collection[Hashable], seconds: float) -> None:
    """Give up partitions at once."""


async def publish(url: str, topic: str) -> None:
    """Publish a message. Raises the error of connecting or sending."""
    sender = drivers.open_driver(url).sender(topic)
    try:
        await sender.connect()
        (error,) = await sender.send([Message(topic, b"Tom")])
        if error is not None:
            raise error
    finally:
        await sender.aclose()


async def consume(url: str, topic: str) -> bytes | None:
    """Return the body of the first message, and ack it, in a group with the topic's name.

    Raises the error of connecting or receiving.
    """
    receiver = drivers.open_driver(url).receiver(topic, topic, ordered=False)
    try:
        await receiver.connect(no_revoke)
        (message,) = await receiver.receive(1, LONG)
        assert list(await receiver.ack([message])) == [None]
        return message.body
    finally:
        await receiver.aclose()


async def connection_error(url: str, topic: str = "cats") -> PubSubError:
    """Return the error that both publishing and consuming raise."""
    with pytest.raises(PubSubError) as sent:
        await asyncio.wait_for(publish(url, topic), LONG)
    with pytest.raises(PubSubError) as received:
        await asyncio.wait_for(consume(url, topic), LONG)
    assert type(sent.value) is type(received.value)
    assert sent.value.transient == received.value.transient
    return received.value


async def until(look: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(LONG):
        while not look():  # noqa: ASYNC110 - nothing notifies
            await asyncio.sleep(0.02)


# A daemon that logs in.


class Cats(Service):
    """Record the names of cats."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.seen: list[str] = []

    @subscribe("cats")
    async def on_cat(self, name: str) -> None:
        self.seen.append(name)


class Daemon:
    """A daemon that serves Cats, and the state that its health checks report."""

    def __init__(self, cats: Cats, server: SimpleServer) -> None:
        self.publish = cats.publish
        self.seen = cats.seen
        self._server = server

    @property
    def problem(self) -> str:
        """The problem that health reports for the subscription."""
        (subscription,) = self._server.subscriptions
        return self._server.channels.problem(subscription)

    @property
    def unpublished(self) -> str:
        """The problem that health reports for the publishers."""
        return "".join(self._server.channels.unpublished())

    async def round_trip(self, name: str) -> None:
        """Publish a name, and wait until it is consumed."""
        await self.publish("cats", name)
        await until(lambda: name in self.seen)


@asynccontextmanager
async def a_daemon(**environ: str) -> AsyncIterator[Daemon]:
    """Serve Cats with the settings in ``environ``."""
    given = {
        "HTTP_ADDR": "127.0.0.1",
        "HTTP_PORT": "0",
        "HTTP_ACCESS_LOG": "off",
        "DRAIN_DELAY": "0s",
        "SHUTDOWN_TIMEOUT": "1s",
        "KAFKA_SESSION_TIMEOUT": "6s",
        "KAFKA_REBALANCE_TIMEOUT": "10s",
        "KAFKA_DELIVERY_TIMEOUT": "2s",
    }
    cats = Cats(load(Settings, environ=given | environ, dotenv=None).settings)
    async with SimpleServer(cats, sleep=short_sleep) as server:
        yield Daemon(cats, server)


def strict_login(url: str, topic: str, **more: str) -> dict[str, str]:
    """Return the environment of a daemon that logs in at the strict_login listener."""
    return {
        "GIZMO_PUBSUB_URL": f"{url}/{topic}",
        "KAFKA_SECURITY_PROTOCOL": "sasl_plaintext",
        "KAFKA_SASL_MECHANISM": "scram-sha-512",
        **more,
    }


# Users and their permissions.

confluent: Any = confluent_kafka.admin  # its type hints lack some of its names


class Admin:
    """Change the users, and the permissions of ``OTHER`` for a topic or a group."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = confluent.AdminClient(
            {"bootstrap.servers": cluster.bootstrap, "log_level": 0}
        )

    async def deny(self, kind: str, name: str) -> None:
        """Deny every operation."""
        await _all(self._client.create_acls([_rule(kind, name, "ALL", "DENY")]))

    async def allow(self, kind: str, name: str, operation: str) -> None:
        """Allow one operation, and no other."""
        await _all(self._client.create_acls([_rule(kind, name, operation, "ALLOW")]))

    async def allow_all(self, kind: str, name: str) -> None:
        """Delete all rules."""
        await _all(self._client.delete_acls([_rule(kind, name, "ANY", "ANY")]))

    async def add_user(self, user: str, password: str) -> None:
        """Create a user of SCRAM-SHA-512."""
        how = confluent.ScramCredentialInfo(confluent.ScramMechanism.SCRAM_SHA_512, 4096)
        change = confluent.UserScramCredentialUpsertion(user, how, password.encode())
        await _all(self._client.alter_user_scram_credentials([change]))

    async def remove_user(self, user: str) -> None:
        """Delete a user of SCRAM-SHA-512."""
        how = confluent.ScramMechanism.SCRAM_SHA_512
        change = confluent.UserScramCredentialDeletion(user, how)
        await _all(self._client.alter_user_scram_credentials([change]))


def _rule(kind: str, name: str, operation: str, permission: str) -> Any:
    """Return a rule, or a filter that matches rules."""
    make = confluent.AclBindingFilter if permission == "ANY" else confluent.AclBinding
    return make(
        confluent.ResourceType[kind],
        name,
        confluent.ResourcePatternType.LITERAL,
        f"User:{OTHER}",
        "*",
        confluent.AclOperation[operation],
        confluent.AclPermissionType[permission],
    )


async def _all(futures: Mapping[Any, Future[Any]]) -> None:
    """Wait for an administrator's requests."""
    for future in futures.values():
        await asyncio.wrap_future(future)
