"""The TLS and SASL options of aiokafka's clients, and the reasons why TLS fails."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.errors import UsageError
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import hide_logins_in_log
from gizmopy.pubsub.brokers.kafka.errors import describe_error

_TOKEN_SECONDS = 2.5
"""How long the token function may take; less than a connection may."""
_TLS_ALERT = 0x1503
"""The first two bytes of a TLS alert: content type 21, version 3 (RFC 8446, section 5.1)."""


def security_options(settings: KafkaSettings, url: str) -> dict[str, Any]:
    """Return the TLS and SASL options of aiokafka's clients.

    Raises UsageError if a file cannot be read, or the token function cannot be imported.
    """
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _tls_context(settings, url)
    if settings.security_protocol.startswith("SASL_"):
        hide_logins_in_log()
        options |= _sasl_options(settings, url)
    return options


def _tls_context(settings: KafkaSettings, url: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as error:  # SSLError is one
        files = [settings.tls_ca, settings.tls_cert, settings.tls_key]
        names = ", ".join(filter(None, files))
        raise UsageError(f"{url}: TLS cannot use {names}: {error}") from error
    return context


def _sasl_options(settings: KafkaSettings, url: str) -> dict[str, Any]:
    options: dict[str, Any] = {"sasl_mechanism": settings.sasl_mechanism}
    if settings.sasl_mechanism != "OAUTHBEARER":
        return options | {
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    provider = settings.sasl_token_provider
    module, _, name = provider.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"sasl_token_provider={provider} is not module:function: {error}"
        raise UsageError(f"{url}: {reason}") from error
    return options | {"sasl_oauth_token_provider": _TokenProvider(provider, function)}


class TokenError(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """The token function returned no token.

    A TypeError is a mistake in the code; any other error may pass.
    """

    def __init__(self, provider: str, error: Exception) -> None:
        reason = f"sasl_token_provider={provider} returned no token: {describe_error(error)}"
        super().__init__(reason)
        self.retriable = not isinstance(error, TypeError)


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Call a function for a token, in bounded time; aiokafka would wait for ever."""

    def __init__(self, provider: str, function: Callable[[], Awaitable[Any]]) -> None:
        self._provider = provider
        self._function = function

    async def token(self) -> str:
        try:
            async with asyncio.timeout(_TOKEN_SECONDS):
                token = await self._function()
            if not isinstance(token, str):
                raise TypeError(f"it returned {type(token).__name__}, not str")
        except Exception as error:
            # A KafkaError, because any other error ends aiokafka's background tasks.
            raise TokenError(self._provider, error) from error
        return token


def tls_problem(server: str, error: BaseException) -> str:
    """Return the TLS problem behind an error, or an empty string if it has another cause.

    A TLS port answers plain text with an alert. aiokafka reads its first 4 bytes as a length.
    """
    cause = error.__cause__
    if isinstance(error, ssl.SSLError):
        return f"TLS with {server} fails: {error}; check tls_ca, and the port"
    if isinstance(cause, ssl.SSLError):
        return f"{server} refuses TLS: {cause}; check tls_cert and tls_key"
    expected = cause.expected if isinstance(cause, asyncio.IncompleteReadError) else None
    if (expected or 0) >> 16 == _TLS_ALERT:
        return f"{server} speaks TLS; use security_protocol=ssl or sasl_ssl, or another port"
    return ""
