"""Who is let in by Kafka publishes and consumes; who is not is told why; and no secret is shown.

The listeners, users and tokens are those of `tests.pubsub.brokers.kafka.security`.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
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
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gizmopy import Message, Service, Settings, subscribe
from gizmopy.config import load
from gizmopy.errors import PubSubError, StartError, UsageError
from gizmopy.pubsub import registry as drivers
from gizmopy.server import SimpleServer
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security import (
    MECHANISMS,
    OTHER,
    OTHER_PASSWORD,
    PASSWORD,
    PROTOCOLS,
    USER,
    unsecured_token,
)

ALICE = f"{USER}:{PASSWORD}"
BOB = f"{OTHER}:{OTHER_PASSWORD}"
WRONG = "s3cr3t-and-wrong"
TOKEN = unsecured_token()
CA = {"tls_ca": "{ca}"}
CERTIFICATE = {"tls_cert": "{cert}", "tls_key": "{key}"}
LONG = 40.0
"""Seconds within which whatever happens happens, or the test fails."""


# Tokens: what a function of a daemon's own may do.


async def valid() -> str:
    """Return a token that the brokers take."""
    return TOKEN


async def expired() -> str:
    """Return a token that was valid."""
    return unsecured_token(lifetime=-1)


async def nonsense() -> str:
    """Return what is no token."""
    return "nonsense"


async def nothing() -> None:
    """Forget the token."""


async def sealed() -> str:
    """Raise what a function raises that has no token to give for now."""
    raise RuntimeError("the vault is sealed")


async def endless() -> str:
    """Never return."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def not_async() -> str:
    """Return a token without having been awaited."""
    return TOKEN


async def changing() -> str:
    """Do as one of the others, which a test may exchange."""
    given: str = await Tokens.give()
    return given


class Tokens:
    """Hold what `changing` does."""

    give: Callable[[], Any] = staticmethod(valid)


@contextmanager
def giving(function: Callable[[], Any]) -> Iterator[None]:
    """Let `changing` do as another function while the context lasts."""
    Tokens.give = staticmethod(function)
    try:
        yield
    finally:
        Tokens.give = staticmethod(valid)


def by(function: Callable[[], Any]) -> dict[str, str]:
    """Return the parameters of a login with the tokens of a function."""
    provider = f"{function.__module__}:{function.__name__}"
    return {"sasl_mechanism": "oauthbearer", "sasl_token_provider": provider}


# Reach the cluster.


def url(cluster: Cluster, listener: str, login: str = "", **parameters: str) -> str:
    """Return how a listener is reached, by what it speaks unless told otherwise."""
    files = {"ca": cluster.ca_file, "cert": cluster.client_cert, "key": cluster.client_key}
    speaks = {"security_protocol": PROTOCOLS.get(listener, "PLAINTEXT"), "partitions": "1"}
    given = {name: value.format_map(files) for name, value in parameters.items()}
    at = f"{login}@" if login else ""
    return f"kafka://{at}{cluster.listener(listener)}?{urlencode(speaks | given)}"


@asynccontextmanager
async def a_topic(cluster: Cluster, through: str = "") -> AsyncIterator[str]:
    """Make a topic, through the listener that asks nothing unless another URL is given."""
    topic = f"cats-{uuid4().hex[:8]}"
    async with drivers.provision(through or url(cluster, "PLAINTEXT", partitions="1"), topic):
        yield topic


async def no_revoke(partitions: Collection[Hashable], seconds: float) -> None:
    """Let go of nothing, where nothing is held."""


async def publish(url: str, topic: str) -> None:
    """Publish a message. Raises what the connecting or the sending ends on."""
    sender = drivers.open_driver(url).sender(topic)
    try:
        await sender.connect()
        (error,) = await sender.send([Message(topic, b"Tom")])
        if error is not None:
            raise error
    finally:
        await sender.aclose()


async def consume(url: str, topic: str) -> bytes | None:
    """Return the body of the first message, and settle it, in a group that bears the topic's name.

    Raises what the connecting or the receiving ends on.
    """
    receiver = drivers.open_driver(url).receiver(topic, topic, ordered=False)
    try:
        await receiver.connect(no_revoke)
        (message,) = await receiver.receive(1, LONG)
        assert list(await receiver.ack([message])) == [None]
        return message.body
    finally:
        await receiver.aclose()


async def refusal(url: str, topic: str = "cats") -> PubSubError:
    """Return what both who publishes and who consumes are told, within seconds."""
    with pytest.raises(PubSubError) as sent:
        await asyncio.wait_for(publish(url, topic), LONG)
    with pytest.raises(PubSubError) as received:
        await asyncio.wait_for(consume(url, topic), LONG)
    assert type(sent.value) is type(received.value)
    assert sent.value.transient == received.value.transient
    return received.value


async def until(look: Callable[[], object]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(LONG):
        while not look():  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.02)


# Who is let in.


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_each_mechanism_publishes_and_consumes(
    secure_kafka: Cluster, listener: str, mechanism: str
) -> None:
    """A user who logs in makes a topic, publishes and consumes, with TLS and without."""
    tls = CA if listener.endswith("SSL") else {}
    if mechanism == "OAUTHBEARER":
        way = url(secure_kafka, listener, **tls, **by(valid))
    else:
        way = url(secure_kafka, listener, ALICE, sasl_mechanism=mechanism, **tls)
    async with a_topic(secure_kafka, way) as topic:
        await publish(way, topic)
        assert await consume(way, topic) == b"Tom"


@pytest.mark.parametrize(
    ("listener", "files"),
    [("SSL", CA), ("SSL", CA | CERTIFICATE), ("CERTIFICATE", CA | CERTIFICATE)],
    ids=["tls", "with a certificate", "with one that is demanded"],
)
async def test_tls_publishes_and_consumes(
    secure_kafka: Cluster, listener: str, files: dict[str, str]
) -> None:
    """TLS with an authority of one's own works, with a certificate of the client and without."""
    way = url(secure_kafka, listener, **files)
    async with a_topic(secure_kafka, way) as topic:
        await publish(way, topic)
        assert await consume(way, topic) == b"Tom"


class Cats(Service):
    """Keeps the names of the cats that it is told of."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.seen: list[str] = []

    @subscribe("cats")
    async def on_cat(self, name: str) -> None:
        self.seen.append(name)


class Daemon:
    """A daemon that serves Cats, seen by who runs it."""

    def __init__(self, cats: Cats, server: SimpleServer) -> None:
        self.publish = cats.publish
        self.seen = cats.seen
        self._server = server

    @property
    def problem(self) -> str:
        """What health says of what is consumed."""
        (subscription,) = self._server.subscriptions
        return self._server.channels.problem(subscription)

    @property
    def unpublished(self) -> str:
        """What health says of what is published."""
        return "".join(self._server.channels.unpublished())

    async def passes_on(self, name: str) -> None:
        """Publish a name, and wait until it is consumed."""
        await self.publish("cats", name)
        await until(lambda: name in self.seen)


async def nap(seconds: float) -> None:
    """Cut short what is waited between one try and the next."""
    await asyncio.sleep(min(seconds, 0.2))


@asynccontextmanager
async def a_daemon(**environ: str) -> AsyncIterator[Daemon]:
    """Serve Cats as an environment says."""
    given = {
        "HTTP_ADDR": "127.0.0.1",
        "HTTP_PORT": "0",
        "HTTP_ACCESS_LOG": "off",
        "DRAIN_DELAY": "0s",
        "SHUTDOWN_TIMEOUT": "1s",
        "KAFKA_SESSION_TIMEOUT": "6s",
        "KAFKA_REBALANCE_TIMEOUT": "10s",
        "KAFKA_DELIVERY_TIMEOUT": "5s",
    }
    cats = Cats(load(Settings, environ=given | environ, dotenv=None).settings)
    async with SimpleServer(cats, sleep=nap) as server:
        yield Daemon(cats, server)


async def test_a_daemon_logs_in_by_its_settings(secure_kafka: Cluster) -> None:
    """KAFKA_* settings alone let a whole daemon in."""
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
        await daemon.passes_on("Tom")


async def test_a_daemon_logs_in_by_its_url(secure_kafka: Cluster) -> None:
    """GIZMO_PUBSUB_URL has what its settings leave out."""
    hosts = secure_kafka.listener("SASL_PLAINTEXT")
    async with a_topic(secure_kafka) as topic:
        url = f"kafka://{ALICE}@{hosts}/{topic}?security_protocol=sasl_plaintext"
        mechanism = "scram-sha-512"
        async with a_daemon(GIZMO_PUBSUB_URL=url, KAFKA_SASL_MECHANISM=mechanism) as daemon:
            await daemon.passes_on("Tom")


async def test_a_daemon_with_a_wrong_password_does_not_start(secure_kafka: Cluster) -> None:
    """Its start ends at once, and says who was refused by whom."""
    hosts = secure_kafka.listener("SASL_PLAINTEXT")
    url = f"kafka://{USER}:{WRONG}@{hosts}?security_protocol=sasl_plaintext"
    with pytest.raises(StartError, match=f"{hosts} refuses to log in 'alice' by PLAIN") as caught:
        async with a_daemon(GIZMO_PUBSUB_URL=url):
            pass
    assert "create it there" not in str(caught.value)
    assert WRONG not in "".join(traceback.format_exception(caught.value))


# Who is not let in, and never will be.

Refusal = tuple[str, str, dict[str, str], str]
"""A listener, who logs in, the parameters, and what is said."""

NEVER: dict[str, Refusal] = {
    "a wrong password (PLAIN)": (
        "SASL_PLAINTEXT",
        f"{USER}:{WRONG}",
        {},
        "refuses to log in 'alice' by PLAIN: .*Invalid username or password.*sasl_password",
    ),
    "a wrong password (SCRAM-SHA-256)": (
        "SASL_PLAINTEXT",
        f"{USER}:{WRONG}",
        {"sasl_mechanism": "scram-sha-256"},
        "refuses to log in 'alice' by SCRAM-SHA-256: .*invalid credentials.*sasl_password",
    ),
    "a wrong password (SCRAM-SHA-512, TLS)": (
        "SASL_SSL",
        f"{USER}:{WRONG}",
        {"sasl_mechanism": "scram-sha-512", **CA},
        "refuses to log in 'alice' by SCRAM-SHA-512: .*invalid credentials.*sasl_password",
    ),
    "an unknown user (PLAIN)": (
        "SASL_PLAINTEXT",
        f"mallory:{WRONG}",
        {},
        "refuses to log in 'mallory' by PLAIN: .*Invalid username or password.*sasl_username",
    ),
    "an unknown user (SCRAM-SHA-512)": (
        "SASL_PLAINTEXT",
        f"mallory:{WRONG}",
        {"sasl_mechanism": "scram-sha-512"},
        "refuses to log in 'mallory' by SCRAM-SHA-512: .*invalid credentials.*sasl_username",
    ),
    "an unknown mechanism": (
        "STRICT",
        ALICE,
        {"sasl_mechanism": "scram-sha-256"},
        "refuses to log in 'alice' by SCRAM-SHA-256: .*sasl_mechanism",
    ),
    "a login where nobody logs in": (
        "PLAINTEXT",
        ALICE,
        {"security_protocol": "sasl_plaintext"},
        "refuses to log in 'alice' by PLAIN: nobody logs in there; .*security_protocol=plaintext",
    ),
    "a login where nobody logs in (TLS)": (
        "SSL",
        ALICE,
        {"security_protocol": "sasl_ssl", **CA},
        "refuses to log in 'alice' by PLAIN: nobody logs in there; .*security_protocol=ssl",
    ),
    "a token that has expired": (
        "SASL_PLAINTEXT",
        "",
        by(expired),
        "refuses to log in this client by OAUTHBEARER: .*the token is not valid.*:expired",
    ),
    "a token that has expired (TLS)": (
        "SASL_SSL",
        "",
        by(expired) | CA,
        "refuses to log in this client by OAUTHBEARER: .*the token is not valid.*:expired",
    ),
    "a token that is none": (
        "SASL_PLAINTEXT",
        "",
        by(nonsense),
        "refuses to log in this client by OAUTHBEARER: .*the token is not valid.*:nonsense",
    ),
    "no token": (
        "SASL_PLAINTEXT",
        "",
        by(nothing),
        "sasl_token_provider=.*:nothing gave no token: TypeError: it returned NoneType",
    ),
    "a function that is not async": (
        "SASL_PLAINTEXT",
        "",
        by(not_async),
        "sasl_token_provider=.*:not_async gave no token: TypeError",
    ),
    "an authority that the system does not know": (
        "SSL",
        "",
        {},
        "TLS with .* fails: .*unable to get local issuer certificate.*tls_ca",
    ),
    "another authority": (
        "SASL_SSL",
        ALICE,
        {"tls_ca": "{ca}.other"},
        "TLS with .* fails: .*unable to get local issuer certificate.*tls_ca",
    ),
    "no certificate where one is demanded": (
        "CERTIFICATE",
        "",
        CA,
        "refuses TLS: .*bad certificate.*tls_cert",
    ),
    "a certificate of another authority": (
        "CERTIFICATE",
        "",
        CA | {"tls_cert": "{cert}.other", "tls_key": "{key}.other"},
        "refuses TLS: .*certificate unknown.*tls_cert",
    ),
    "no TLS where it is spoken": ("SSL", "", {"security_protocol": "plaintext"}, "speaks TLS"),
    "no TLS where it is spoken (SASL)": (
        "SASL_SSL",
        ALICE,
        {"security_protocol": "sasl_plaintext"},
        "speaks TLS",
    ),
}


@pytest.fixture(scope="session")
def another_authority(secure_kafka: Cluster) -> None:
    """Write another authority's certificates beside those that are good."""
    authority = trustme.CA()
    mallory = authority.issue_cert("mallory@example.org")
    authority.cert_pem.write_to_path(f"{secure_kafka.ca_file}.other")
    mallory.cert_chain_pems[0].write_to_path(f"{secure_kafka.client_cert}.other")
    mallory.private_key_pem.write_to_path(f"{secure_kafka.client_key}.other")


@pytest.mark.usefixtures("another_authority")
@pytest.mark.parametrize(("listener", "login", "given", "said"), NEVER.values(), ids=NEVER)
async def test_what_never_works_says_why(
    secure_kafka: Cluster, listener: str, login: str, given: dict[str, str], said: str
) -> None:
    """What is refused for good is not transient, and the error says what, and what to look at."""
    error = await refusal(url(secure_kafka, listener, login, **given))
    with pytest.raises(PubSubError, match=said):
        raise error
    assert not error.transient


async def test_a_host_that_is_not_in_the_certificate(secure_kafka: Cluster) -> None:
    """A broker that does not prove the name that it was called by is not spoken to."""
    way = url(secure_kafka, "SSL", **CA).replace("127.0.0.1", "localhost")
    error = await refusal(way)
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in str(error)
    assert not error.transient


# Who is not let in for now: the same may be said by a broker, or a vault, that is about to start.

PERHAPS: dict[str, Refusal] = {
    "TLS where it is not spoken": (
        "PLAINTEXT",
        "",
        {"security_protocol": "ssl", **CA},
        "no broker answers .*does it speak SSL there",
    ),
    "TLS where it is not spoken (SASL)": (
        "SASL_PLAINTEXT",
        ALICE,
        {"security_protocol": "sasl_ssl", **CA},
        "no broker answers .*does it speak SASL_SSL there",
    ),
    "no login where one is demanded": (
        "SASL_PLAINTEXT",
        "",
        {"security_protocol": "plaintext"},
        "no broker answers .*does it speak PLAINTEXT there",
    ),
    "no login where one is demanded (TLS)": (
        "SASL_SSL",
        "",
        {"security_protocol": "ssl", **CA},
        "no broker answers .*does it speak SSL there",
    ),
    "a function that raises": (
        "SASL_PLAINTEXT",
        "",
        by(sealed),
        "sasl_token_provider=.*:sealed gave no token: RuntimeError: the vault is sealed",
    ),
    "a function that does not return": (
        "SASL_PLAINTEXT",
        "",
        by(endless),
        "sasl_token_provider=.*:endless gave no token: TimeoutError",
    ),
}


@pytest.mark.parametrize(("listener", "login", "given", "said"), PERHAPS.values(), ids=PERHAPS)
async def test_what_may_pass_says_what_it_may_be(
    secure_kafka: Cluster, listener: str, login: str, given: dict[str, str], said: str
) -> None:
    """What may be an outage is tried again, and the error says what else it may be."""
    error = await refusal(url(secure_kafka, listener, login, **given))
    with pytest.raises(PubSubError, match=said):
        raise error
    assert error.transient


def test_a_key_with_a_password_is_refused(secure_kafka: Cluster) -> None:
    """Nobody is asked for the password of a key: a daemon would wait for it for ever."""
    key = load_pem_private_key(secure_kafka.client_key.read_bytes(), password=None)
    locked = secure_kafka.client_key.with_suffix(".locked")
    lock = BestAvailableEncryption(b"sesame")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    way = url(secure_kafka, "SSL", tls_ca="{ca}", tls_cert="{cert}", tls_key=str(locked))
    with pytest.raises(UsageError, match=r"TLS cannot use .*client\.locked"):
        drivers.open_driver(way)


# Who is let in, and may not do what it wants.


confluent: Any = confluent_kafka.admin  # its types are not what it exports


class Admin:
    """Change who may log in, and what ``OTHER`` may do with a topic or a group."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = confluent.AdminClient(
            {"bootstrap.servers": cluster.bootstrap, "log_level": 0}
        )

    async def deny(self, kind: str, name: str) -> None:
        """Let it do nothing."""
        await _all(self._client.create_acls([_rule(kind, name, "ALL", "DENY")]))

    async def allow(self, kind: str, name: str, operation: str) -> None:
        """Let it do one thing, and nothing else."""
        await _all(self._client.create_acls([_rule(kind, name, operation, "ALLOW")]))

    async def allow_all(self, kind: str, name: str) -> None:
        """Take back what was denied, and what was allowed."""
        await _all(self._client.delete_acls([_rule(kind, name, "ANY", "ANY")]))

    async def let_in(self, user: str, password: str) -> None:
        """Make a user of SCRAM-SHA-512."""
        how = confluent.ScramCredentialInfo(confluent.ScramMechanism.SCRAM_SHA_512, 4096)
        change = confluent.UserScramCredentialUpsertion(user, how, password.encode())
        await _all(self._client.alter_user_scram_credentials([change]))

    async def shut_out(self, user: str) -> None:
        """Remove a user of SCRAM-SHA-512."""
        how = confluent.ScramMechanism.SCRAM_SHA_512
        change = confluent.UserScramCredentialDeletion(user, how)
        await _all(self._client.alter_user_scram_credentials([change]))


def _rule(kind: str, name: str, operation: str, permission: str) -> Any:
    """Return a rule, or what finds rules."""
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
    """Wait for what an admin has begun."""
    for future in futures.values():
        await asyncio.wrap_future(future)


async def test_a_topic_without_permission(secure_kafka: Cluster) -> None:
    """A topic that the user may not see, publish to or consume is named, and so is the user."""
    way = url(secure_kafka, "SASL_PLAINTEXT", BOB)
    admin = Admin(secure_kafka)
    async with a_topic(secure_kafka) as topic:
        await admin.deny("TOPIC", topic)
        error = await refusal(way, topic)
    assert f"topic '{topic}' may not be used by 'bob'" in str(error)
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


# What changes while a daemon runs. On the strict listener a login is over in 2 s.


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


def strict(url: str, topic: str, **more: str) -> dict[str, str]:
    """Return what lets a daemon in through the strict listener."""
    return {
        "GIZMO_PUBSUB_URL": f"{url}/{topic}",
        "KAFKA_SECURITY_PROTOCOL": "sasl_plaintext",
        "KAFKA_SASL_MECHANISM": "scram-sha-512",
        **more,
    }


async def test_a_user_is_removed_and_comes_back(secure_kafka: Cluster) -> None:
    """A daemon whose user is removed says so, and goes on by itself once the user is back."""
    admin = Admin(secure_kafka)
    await admin.let_in("carol", "carol-secret")
    url = f"kafka://carol:carol-secret@{secure_kafka.listener('STRICT')}"
    async with a_topic(secure_kafka) as topic, a_daemon(**strict(url, topic)) as daemon:
        await daemon.passes_on("before")
        await admin.shut_out("carol")
        await until(lambda: "refuses to log in 'carol' by SCRAM-SHA-512" in daemon.problem)
        with pytest.raises(PubSubError, match="not confirmed within 5 s"):
            await daemon.publish("cats", "meanwhile")
        for _ in range(2):
            with pytest.raises(PubSubError, match="refuses to log in 'carol' by SCRAM-SHA-512"):
                await daemon.publish("cats", "meanwhile")
        assert "refuses to log in 'carol' by SCRAM-SHA-512" in daemon.unpublished
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
        await until(lambda: f"topic '{topic}' may not be used by 'bob'" in daemon.problem)
        with pytest.raises(PubSubError, match="TopicAuthorizationFailedError"):
            await daemon.publish("cats", "meanwhile")
        await admin.allow_all("TOPIC", topic)
        await until(lambda: not daemon.problem)
        await daemon.passes_on("after")


# What is shown.

SECRETS: dict[str, tuple[str, dict[str, str], str]] = {
    "PLAIN": (ALICE, {}, PASSWORD),
    "SCRAM": (ALICE, {"sasl_mechanism": "scram-sha-256"}, PASSWORD),
    "a token": ("", by(valid), TOKEN[:60]),
    "a wrong password (PLAIN)": (f"{USER}:{WRONG}", {}, WRONG),
    "a wrong password (SCRAM)": (f"{USER}:{WRONG}", {"sasl_mechanism": "scram-sha-256"}, WRONG),
}


@pytest.mark.parametrize(("login", "given", "secret"), SECRETS.values(), ids=SECRETS)
async def test_no_secret_is_shown(
    secure_kafka: Cluster,
    caplog: pytest.LogCaptureFixture,
    login: str,
    given: dict[str, str],
    secret: str,
) -> None:
    """Neither a log record of any library, at any level, nor an error, nor a repr has a secret."""
    caplog.set_level(logging.DEBUG)
    way = url(secure_kafka, "SASL_PLAINTEXT", login, **given)
    driver = drivers.open_driver(way)
    shown = [repr(each) for each in (driver, vars(driver), driver.sender("cats"))]
    async with a_topic(secure_kafka) as topic:
        for doing in (publish, consume):
            try:
                await doing(way, topic)
            except PubSubError as error:
                shown += [repr(error), *traceback.format_exception(error)]
    assert "SaslHandShakeRequest" in caplog.text
    assert secret not in caplog.text
    assert secret not in "".join(shown)
