"""The settings of the Kafka driver: ``KAFKA_*`` variables, or the parameters of a ``kafka://`` URL.

A URL takes precedence. Both use the same names: those of the Java clients if they have the setting,
and Gizmo's ``KAFKA_BROKER_HOSTS`` and ``KAFKA_TOPIC``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import SettingsConfigDict

from gizmopy.config.duration import PositiveDuration, format_duration
from gizmopy.config.marks import NamesCode, Shown
from gizmopy.config.plain_text import validated_text
from gizmopy.config.secrets.redaction import (
    is_marked_field,
    is_quotable,
    quotable_text,
    redacted_model,
)
from gizmopy.config.urls import redacted_url, split_broker_url
from gizmopy.config.validation import CommaList, validation_error
from gizmopy.errors import UsageError
from gizmopy.untrusted.hidden import describe_size, placeholder

SCHEME = "kafka"
_GROUP_SETTINGS = ("group", "group_instance_id")

_HOST = re.compile(r"(?P<name>[\w.-]+|\[[\da-fA-F:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _host(number: int, text: str) -> str:
    """Return ``host:port``, with Kafka's default port if there is none.

    The error gives the host's number, not its text: a malformed host may be a login without its
    ``@``.
    """
    found = _HOST.fullmatch(text)
    port = int(found["port"] or 9092) if found else 0
    if not (found and 0 < port < 65536):
        raise validation_error(
            f"host {number} is not host:port", "write it like broker-1:9092,[::1]:9092"
        )
    return f"{found['name']}:{port}"


def _hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if any("@" in host for host in hosts):
        remedy = (
            "set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or write the login once, before the "
            "hosts of a URL"
        )
        raise validation_error("a list of hosts cannot hold a login", remedy)
    return tuple(map(_host, count(1), hosts))


class KafkaSettings(BaseModel):
    """How to reach Kafka, consume from it and publish to it.

    ``from_url`` makes one from a URL. Raises pydantic's ValidationError.
    """

    model_config = SettingsConfigDict(
        env_nested_delimiter="_",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # the text of an error would otherwise show the password
    )

    broker_hosts: Annotated[CommaList, AfterValidator(_hosts)] = Field(
        default=(), description="The brokers to connect to first: host:port, separated by commas."
    )
    topic: Annotated[str, Shown] = Field(
        default="", description="The topic of the channel, if the daemon has only one channel."
    )
    group: Annotated[str, Shown] = Field(
        default="",
        description="The consumer group. Default: the name of each subscription, which is the "
        "service's name unless it has its own.",
    )
    client_id: Annotated[str, Shown] = Field(
        default="gizmopy", description="The name of this client in the brokers' logs and quotas."
    )
    auto_offset_reset: Annotated[Literal["earliest", "latest", "none"], BeforeValidator(_lower)] = (
        Field(
            default="earliest",
            description="Where a group starts if it has no committed offset, or if that offset no "
            "longer exists; none: raise an error.",
        )
    )
    isolation_level: Annotated[
        Literal["read_uncommitted", "read_committed"], BeforeValidator(_lower)
    ] = Field(
        default="read_uncommitted",
        description="read_committed skips messages from aborted transactions.",
    )
    group_instance_id: Annotated[str, Shown] = Field(
        default="",
        description="The name of this member for static membership, unique in the group. A restart "
        "within the session timeout then moves no partition.",
    )
    session_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30),
        description="How long a member may send no heartbeat before its partitions move to others.",
    )
    rebalance_timeout: PositiveDuration = Field(
        default=timedelta(seconds=60),
        description="Maximum time a member may take to give up partitions during a rebalance. "
        "Running handlers get most of it.",
    )
    commit_interval: PositiveDuration = Field(
        default=timedelta(seconds=1),
        description="How often the offsets of handled messages are committed.",
    )
    commit_every: int = Field(
        default=10_000,
        gt=0,
        description="The number of handled messages after which offsets are committed at once.",
    )
    partition_ahead: int = Field(
        default=10_000,
        gt=0,
        description="How many messages of a partition are received beyond its first unhandled one.",
    )
    metadata_max_age: PositiveDuration = Field(
        default=timedelta(minutes=1),
        description="How often metadata is refreshed; new partitions are found then.",
    )
    delivery_timeout: PositiveDuration = Field(
        default=timedelta(minutes=1),
        description="How long publishing waits for the brokers' confirmation.",
    )
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], BeforeValidator(_lower)
    ] = Field(default="none", description="The compression of published batches.")
    max_message_bytes: int = Field(
        default=1_000_000,
        gt=0,
        description="The maximum size of a message in bytes. By default brokers accept 1 MiB for "
        "a whole batch with its header.",
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = Field(default="PLAINTEXT", description="Whether to use TLS (SSL) and a login (SASL).")
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], BeforeValidator(_upper)
    ] = Field(default="PLAIN", description="The mechanism of the login.")
    sasl_username: str = Field(
        default="", description="The user of the login; in a URL before the @."
    )
    sasl_password: SecretStr = Field(
        default=SecretStr(""), description="The password of the login; in a URL before the @."
    )
    sasl_token_provider: Annotated[str, Shown, NamesCode] = Field(
        default="",
        description="module:function of an async function without arguments that returns a token "
        "for OAUTHBEARER; not read from .env.",
    )
    tls_ca: Annotated[str, Shown] = Field(
        default="",
        description="The file with the certificate authorities to trust; default: the system's.",
    )
    tls_cert: Annotated[str, Shown] = Field(
        default="", description="The file with the client's certificate."
    )
    tls_key: Annotated[str, Shown] = Field(
        default="", description="The file with the private key of tls_cert."
    )
    partitions: int = Field(
        default=4,
        gt=0,
        description="The number of partitions of a topic that is created for tests or development.",
    )
    replication_factor: int = Field(
        default=-1, description="The number of its replicas; -1: the brokers' default."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return validated_text(value)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from redacted_model(self).items()

    @classmethod
    def from_url(cls, url: str) -> KafkaSettings:
        """Return the settings in ``kafka://user:password@host:port,host:port/topic?name=value``.

        Raises UsageError, which names the parameter, its value and a remedy.
        """
        parts = split_broker_url(url)
        try:
            settings = cls.model_validate(_values(parts))
        except ValidationError as error:  # not chained: it holds the values
            problem = "; ".join(map(_problem, error.errors(include_url=False)))
        else:
            problem = _inconsistency(settings)
            if not problem:
                return settings
        raise UsageError(f"the Kafka URL {redacted_url(url, with_path=True)}: {problem}")

    def with_defaults(self, url: str, topic: str = "") -> str:
        """Return a ``kafka://`` URL with these settings added unless it has its own values.

        The topic is an exception: if the URL has none, the argument ``topic`` is used. URLs of
        other brokers are returned unchanged. Raises UsageError if ``url`` is not a valid URL.
        """
        parts = split_broker_url(url)
        if parts.scheme != SCHEME:
            return url
        fields = type(self).model_fields.items()
        changed = [name for name, field in fields if getattr(self, name) != field.default]
        values = {name: _text(getattr(self, name)) for name in changed} | {"topic": topic}
        values |= {name: value for name, value in _values(parts).items() if value}
        return _url(values)


def _inconsistency(settings: KafkaSettings) -> str:
    """Return which settings contradict each other, or an empty string.

    Connecting with them would fail in a way that looks like an outage.
    """
    protocol, mechanism = settings.security_protocol, settings.sasl_mechanism
    logs_in, password = protocol.startswith("SASL_"), settings.sasl_password.get_secret_value()
    if not settings.broker_hosts:
        return "has no broker; write kafka://host:port, or set KAFKA_BROKER_HOSTS"
    if (settings.sasl_username or password or settings.sasl_token_provider) and not logs_in:
        return (
            f"SASL credentials are set, but security_protocol={protocol} does not use SASL; set "
            "sasl_ssl, or sasl_plaintext in a trusted network"
        )
    if logs_in and mechanism == "OAUTHBEARER" and not settings.sasl_token_provider:
        return "OAUTHBEARER needs a token function; set sasl_token_provider=module:function"
    if logs_in and mechanism != "OAUTHBEARER" and not (settings.sasl_username and password):
        return (
            f"{mechanism} needs a user and a password; set KAFKA_SASL_USERNAME and "
            "KAFKA_SASL_PASSWORD, or write kafka://user:password@host:port"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        return "only one of tls_cert and tls_key is set; set both, or neither"
    if (settings.tls_ca or settings.tls_cert) and not protocol.endswith("SSL"):
        return (
            f"TLS files are set, but security_protocol={protocol} does not use TLS; set ssl or "
            "sasl_ssl"
        )
    if settings.rebalance_timeout < settings.session_timeout / 3:
        return (
            "rebalance_timeout is less than a third of session_timeout, so members would learn of "
            "a rebalance too late; raise it"
        )
    return ""


def without_group(url: str) -> str:
    """Return a ``kafka://`` URL without ``group`` and ``group_instance_id``; others unchanged.

    A process that runs beside a daemon would otherwise take its partitions.
    """
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        return url
    values = _values(parts)
    others = {name: text for name, text in values.items() if name not in _GROUP_SETTINGS}
    return _url(others)


def _values(parts: SplitResult) -> dict[str, str]:
    """Return the values in a URL by the names of their settings, not validated.

    Raises UsageError if percent-encoded bytes are not UTF-8: they would become U+FFFD, and the
    broker would refuse a login that looks right.
    """
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    try:
        given = {
            "broker_hosts": hosts,
            "topic": unquote(parts.path.strip("/"), errors="strict"),
            "sasl_username": unquote(user, errors="strict"),
            "sasl_password": unquote(password, errors="strict"),
        }
        query = dict(parse_qsl(parts.query, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError:  # not chained: it holds the login
        raise UsageError(
            "the Kafka URL has percent-encoded bytes that are not UTF-8; encode the text as UTF-8, "
            "and write % itself as %25"
        ) from None
    return {name: value for name, value in given.items() if value} | query


def _url(values: dict[str, str]) -> str:
    """Return the URL with ``values``."""
    hosts, topic = values.pop("broker_hosts", ""), values.pop("topic", "")
    user, password = values.pop("sasl_username", ""), values.pop("sasl_password", "")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    path = f"/{quote(topic, safe='')}" if topic else ""
    query = f"?{urlencode(values)}" if values else ""
    # Hosts from a query are decoded: a "?" in them would start parameters that were not validated.
    return f"{SCHEME}://{login}{quote(hosts, safe=':,[]')}{path}{query}"


def _text(value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _problem(error: Any) -> str:
    """Return the error of a parameter; the value of a secret is masked."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        from difflib import get_close_matches  # only here: the import would slow each start

        known = sorted(KafkaSettings.model_fields)
        # A name that resembles no parameter may be part of a password that was not escaped.
        subject = (
            name if get_close_matches(name, known, n=1) else f"a name of {describe_size(name)}"
        )
        return f"{subject} is not a parameter of kafka://; use one of: {', '.join(known)}"
    reason = error["msg"].removeprefix("Input ")
    if not name:
        return str(reason)
    marked = is_marked_field(KafkaSettings, name)
    if marked or is_quotable(KafkaSettings.model_fields[name].annotation):
        text = quotable_text(error["input"], marked=marked)
        if text is not None:
            return f"{name}={text} {reason}"
    return f"{name}={placeholder(describe_size(error['input']))} {reason}"
