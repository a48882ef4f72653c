"""Reach a Kafka cluster: the options of its clients, a topic, and why it cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    NoError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import PubSubError, TopicNotFound
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import topic_metadata
from gizmopy.pubsub.brokers.kafka.errors import describe_error
from gizmopy.pubsub.brokers.kafka.security import TokenError, security_options, tls_problem

_CONNECT_SECONDS = 3.0
"""How long one broker may take to connect and answer."""
_BACKOFF_MS = 500
"""How long each task of aiokafka waits before it retries. Its own default of 100 ms makes 37 logins
a second while a login is refused, which may lock an account."""
_LOGIN_ERRORS = (
    AuthenticationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)


class Cluster:
    """The brokers in ``settings``; ``url`` is their URL without secrets, for errors."""

    def __init__(self, settings: KafkaSettings, url: str) -> None:
        self.url = url
        self._settings = settings
        self._security = security_options(settings, url)

    def options(self) -> dict[str, Any]:
        """Return the options that every client of aiokafka gets."""
        settings = self._settings
        return self._security | {
            "bootstrap_servers": list(settings.broker_hosts),
            "client_id": settings.client_id,
            "metadata_max_age_ms": milliseconds(settings.metadata_max_age),
            "retry_backoff_ms": _BACKOFF_MS,
        }

    async def find(self, topic: str) -> int:
        """Return how many partitions ``topic`` has, without creating it.

        Raises TopicNotFound, PubSubError if a login or a certificate is refused, and a transient
        PubSubError if no broker answers.
        """
        problems: list[str] = []
        is_unknown = False
        # One broker after the other, because any of them may be down. The first answer decides,
        # unless it is that the topic is unknown: another broker may have newer metadata.
        for server in self._settings.broker_hosts:
            try:
                found = await self._ask(server, topic)
            except _LOGIN_ERRORS as error:
                raise self._login_error(server, error) from error
            except TokenError as error:
                raise PubSubError(error.args[0], transient=error.retriable) from error
            except (OSError, TimeoutError, KafkaError) as error:
                if problem := tls_problem(server, error):
                    raise PubSubError(problem, transient=False) from error
                problems.append(f"{server}: {str(error) or type(error).__name__}")
            else:
                if (code := for_code(found["error_code"])) is not UnknownTopicOrPartitionError:
                    self._check(topic, code)
                    return len(found["partitions"])
                is_unknown = True
        if is_unknown:
            raise TopicNotFound(f"topic {topic!r} does not exist on {self.url}")
        reason = "; ".join(problems)
        protocol = self._settings.security_protocol
        raise PubSubError(
            f"no broker answers ({reason}); check that the port uses security_protocol={protocol}",
            transient=True,
        )

    async def find_again(self, topic: str) -> int:
        """Like ``find``, but raise every failure as transient.

        The client was authorized before, so a refusal may be temporary.
        """
        try:
            return await self.find(topic)
        except PubSubError as error:
            raise PubSubError(str(error), transient=True) from error

    async def _ask(self, server: str, topic: str) -> Mapping[str, Any]:
        """Return one broker's metadata of ``topic``."""
        host, _, port = server.rpartition(":")
        options = self._security | {"client_id": self._settings.client_id}
        async with asyncio.timeout(_CONNECT_SECONDS):
            found = await topic_metadata(host.strip("[]"), int(port), topic, options)
        if for_code(found["error_code"]) is IllegalSaslStateError:
            # aiokafka takes every answer to a token for a success. The broker has refused the
            # token, expects another message of the login, and gets this request instead.
            raise SaslAuthenticationFailed("the token is not valid")
        return cast(Mapping[str, Any], found)

    def _check(self, topic: str, error: type[KafkaError]) -> None:
        if error is TopicAuthorizationFailedError:
            raise PubSubError(
                f"{self._client} may not use topic {topic!r}; grant it Describe, and Read or Write",
                transient=False,
            )
        if error is not NoError and not error.retriable:
            raise PubSubError(f"topic {topic!r}: {error.__name__}", transient=False)

    @property
    def _client(self) -> str:
        return repr(self._settings.sasl_username) if self._settings.sasl_username else "this client"

    def _login_error(self, server: str, error: KafkaError) -> PubSubError:
        settings = self._settings
        problem = f"{server} refuses the login of {self._client} by {settings.sasl_mechanism}"
        if isinstance(error, IllegalSaslStateError):
            protocol = settings.security_protocol.removeprefix("SASL_").lower()
            reason = (
                f"this port has no logins; use another port, or set security_protocol={protocol}"
            )
        elif isinstance(error, UnsupportedSaslMechanismError):
            reason = "the broker does not offer this mechanism; set another sasl_mechanism"
        elif settings.sasl_mechanism == "OAUTHBEARER":
            provider = settings.sasl_token_provider
            reason = f"{describe_error(error)}; check the token of sasl_token_provider={provider}"
        else:
            reason = f"{describe_error(error)}; check sasl_username and sasl_password"
        return PubSubError(f"{problem}: {reason}", transient=False)


def milliseconds(duration: timedelta) -> int:
    """Return a duration as aiokafka takes it, 1 at least."""
    return max(1, round(duration / timedelta(milliseconds=1)))
