"""How a Kafka cluster is reached: who logs in by what, which topic is there, and what is wrong.

What is used beyond the documented parts of aiokafka: ``create_conn`` and ``MetadataRequest``, as
its clients say "unable to bootstrap" and log why, if at all, and make a topic by asking for it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    KafkaTimeoutError,
    NoError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.urls import redacted_url
from gizmopy.errors import NotFound, PubSubError, UsageError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import CLOSE_SECONDS, ended
from gizmopy.untrusted.error_text import text_of

_CONNECT_SECONDS = 3.0
"""What one broker may take to answer when it is asked for the first time."""
_TOKEN_SECONDS = 2.5
"""What the function for tokens may take, less than all of the connecting."""
_BACKOFF_MS = 500
"""How long aiokafka waits before it tries again, with each of its tasks: its own 100 ms are 37
logins a second while one is refused, which may lock an account."""
_LOOK_AGAIN = 0.1
"""Seconds after which a topic that is being made is looked at again."""
_PASSING = (KafkaTimeoutError, OutOfOrderSequenceNumber, ProducerClosed, ProducerFenced)
"""What a new producer does not suffer from, though aiokafka calls some of it final."""
_REFUSALS = (
    AuthenticationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)


class Cluster:
    """Say how the brokers are reached, and what is wrong where they are not."""

    def __init__(self, settings: KafkaSettings, url: str) -> None:
        self.url = url
        self._settings = settings
        self._security: dict[str, Any] = {"security_protocol": settings.security_protocol}
        if settings.security_protocol.endswith("SSL"):
            self._security["ssl_context"] = _tls(settings, url)
        if settings.security_protocol.startswith("SASL_"):
            self._security |= _login(settings, url)

    def options(self) -> dict[str, Any]:
        """Return what every client of aiokafka is told."""
        settings = self._settings
        return self._security | {
            "bootstrap_servers": list(settings.broker_hosts),
            "client_id": settings.client_id,
            "metadata_max_age_ms": milliseconds(settings.metadata_max_age),
            "retry_backoff_ms": _BACKOFF_MS,
        }

    async def find(self, topic: str) -> int:
        """Return how many partitions ``topic`` has; none is made by asking.

        Raises NotFound, a PubSubError on a login or a certificate that is refused, and a transient
        one where no broker answers.
        """
        problems: list[str] = []
        is_unknown = False
        for server in self._settings.broker_hosts:
            try:
                answer = await self._ask(server, topic)
            except _REFUSALS as error:
                raise self._refused(server, error) from error
            except _NoToken as error:
                raise PubSubError(error.args[0], transient=error.retriable) from error
            except (OSError, TimeoutError, KafkaError) as error:
                if problem := _tls_problem(server, error):
                    raise PubSubError(problem, transient=False) from error
                problems.append(f"{server}: {str(error) or type(error).__name__}")
            else:
                if (code := for_code(answer["error_code"])) is not UnknownTopicOrPartitionError:
                    self._check(topic, code)
                    return len(answer["partitions"])
                is_unknown = True  # to this one, which may be behind the others
        if is_unknown:
            raise NotFound(f"topic {topic!r} does not exist on {self.url}")
        reason = "; ".join(problems)
        hint = f"does it speak {self._settings.security_protocol} there?"
        raise PubSubError(f"no broker answers ({reason}); {hint}", transient=True)

    async def find_again(self, topic: str) -> int:
        """Do as ``find`` for who was let in before: what is refused by now may be mended."""
        try:
            return await self.find(topic)
        except PubSubError as error:
            raise PubSubError(str(error), transient=True) from error

    async def _ask(self, server: str, topic: str) -> Mapping[str, Any]:
        """Return what a broker says of ``topic``."""
        host, _, port = server.rpartition(":")
        options = self._security | {"client_id": self._settings.client_id}
        async with asyncio.timeout(_CONNECT_SECONDS):
            connection = await create_conn(host.strip("[]"), int(port), **options)
            try:
                answer = await connection.send(MetadataRequest([topic], False))
            finally:
                await ended(connection.close(), CLOSE_SECONDS)
        (found,) = answer.to_object()["topics"]
        if for_code(found["error_code"]) is IllegalSaslStateError:
            # To aiokafka any answer to a token is a yes, and the broker waits for what comes next.
            raise SaslAuthenticationFailed("the token is not valid")
        return cast(Mapping[str, Any], found)

    def _check(self, topic: str, error: type[KafkaError]) -> None:
        if error is TopicAuthorizationFailedError:
            reason = f"topic {topic!r} may not be used by {self._who}; grant it Describe and more"
            raise PubSubError(reason, transient=False)
        if error is not NoError and not error.retriable:
            raise PubSubError(f"topic {topic!r}: {error.__name__}", transient=False)

    @property
    def _who(self) -> str:
        return repr(self._settings.sasl_username) if self._settings.sasl_username else "this client"

    def _refused(self, server: str, error: KafkaError) -> PubSubError:
        settings = self._settings
        what = f"{server} refuses to log in {self._who} by {settings.sasl_mechanism}"
        if isinstance(error, IllegalSaslStateError):
            return PubSubError(
                f"{what}: nobody logs in there; use another port, or "
                f"security_protocol={settings.security_protocol.removeprefix('SASL_').lower()}",
                transient=False,
            )
        if isinstance(error, UnsupportedSaslMechanismError):
            reason = f"{what}: it does not have that; use another sasl_mechanism"
            return PubSubError(reason, transient=False)
        check = "sasl_username and sasl_password"
        if settings.sasl_mechanism == "OAUTHBEARER":
            check = f"what sasl_token_provider={settings.sasl_token_provider} returns"
        return PubSubError(f"{what}: {said(error)}; check {check}", transient=False)


@asynccontextmanager
async def provision(url: str, topic: str, subscriptions: Sequence[str]) -> AsyncIterator[None]:
    """Make a topic, and remove it after: for tests and development. Groups make themselves."""
    settings = KafkaSettings.from_url(url)
    admin = AIOKafkaAdminClient(**Cluster(settings, redacted_url(url, with_path=True)).options())
    replicas = settings.replication_factor
    new = NewTopic(topic, settings.partitions, replicas, {} if replicas < 0 else None)
    with translated(f"topic {topic!r} cannot be made"):
        await admin.start()
    try:
        with translated(f"topic {topic!r} cannot be made"):
            answer = await admin.create_topics([new])
            error = for_code(answer.topic_errors[0][1])
            if error not in (NoError, TopicAlreadyExistsError):
                raise error(answer.topic_errors[0][2])
            while not await _is_made(admin, topic, settings.partitions):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_AGAIN)
        yield
        with suppress(KafkaError):
            await admin.delete_topics([topic])
    finally:
        await admin.close()


async def _is_made(admin: AIOKafkaAdminClient, topic: str, partitions: int) -> bool:
    """Return whether a broker knows a topic that was just made, and each partition's leader."""
    (found,) = await admin.describe_topics([topic])
    ready = [each for each in found["partitions"] if not each["error_code"]]
    return not found["error_code"] and len(ready) >= partitions


class _NoToken(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """The function for tokens gave none. A TypeError is a mistake that stays; all else may pass."""

    def __init__(self, provider: str, error: Exception) -> None:
        super().__init__(f"sasl_token_provider={provider} gave no token: {said(error)}")
        self.retriable = not isinstance(error, TypeError)


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Ask a function for a token, in bounded time; aiokafka would wait for it for ever."""

    def __init__(self, provider: str, function: Any) -> None:
        self._provider = provider
        self._function = function

    async def token(self) -> str:
        try:
            async with asyncio.timeout(_TOKEN_SECONDS):
                token = await self._function()
            if not isinstance(token, str):
                raise TypeError(f"it returned {type(token).__name__}, and not str")
        except Exception as error:  # aiokafka's tasks die of what is no KafkaError
            raise _NoToken(self._provider, error) from error
        return token


def _login(settings: KafkaSettings, url: str) -> dict[str, Any]:
    options: dict[str, Any] = {"sasl_mechanism": settings.sasl_mechanism}
    if settings.sasl_mechanism != "OAUTHBEARER":
        return options | {
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    module, _, name = settings.sasl_token_provider.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        given = f"sasl_token_provider={settings.sasl_token_provider}"
        raise UsageError(f"{url}: {given} is no module:function: {error}") from error
    return options | {"sasl_oauth_token_provider": _Tokens(settings.sasl_token_provider, function)}


def _tls(settings: KafkaSettings, url: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            # Without a password, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as error:  # SSLError is one
        files = [settings.tls_ca, settings.tls_cert, settings.tls_key]
        names = ", ".join(filter(None, files))
        raise UsageError(f"{url}: TLS cannot use {names}: {error}") from error
    return context


def _tls_problem(server: str, error: BaseException) -> str:
    """Return what is wrong with TLS, here or as the broker says; empty where it is something else.

    A broker that speaks TLS answers all else by an alert, whose first 4 bytes look like a length.
    """
    cause = error.__cause__
    if isinstance(error, ssl.SSLError):
        return f"TLS with {server} fails: {error}; check tls_ca, and the port"
    if isinstance(cause, ssl.SSLError):
        return f"{server} refuses TLS: {cause}; check tls_cert and tls_key"
    if isinstance(cause, asyncio.IncompleteReadError) and (cause.expected or 0) >> 16 == 0x1503:
        return f"{server} speaks TLS; use security_protocol=ssl or sasl_ssl, or another port"
    return ""


def _shows_no_secret(record: logging.LogRecord) -> bool:
    """Return whether a log record of aiokafka, which shows each request, shows no login."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any("SaslAuthenticateRequest" in type(each).__name__ for each in arguments)


logging.getLogger("aiokafka.conn").addFilter(_shows_no_secret)  # the same one, added only once


def milliseconds(duration: timedelta) -> int:
    """Return what aiokafka takes for a duration."""
    return max(1, round(duration / timedelta(milliseconds=1)))


def said(error: BaseException) -> str:
    """Return what an error of aiokafka says, and its name, which often says more."""
    name, text = type(error).__name__, text_of(error)
    if name in text:  # as most of aiokafka's say themselves
        return text
    return f"{name}: {text}" if text else name


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Let nothing of aiokafka out: raise PubSubError in its place."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        passes = not isinstance(error, KafkaError) or error.retriable or isinstance(error, _PASSING)
        raise PubSubError(f"{what}: {said(error)}", transient=passes) from error
