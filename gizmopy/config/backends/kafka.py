"""What a Kafka driver is told: by ``KAFKA_*`` settings, or by what follows ``?`` in a URL.

A URL beats the settings. The names are the same in both; those of the Java clients wherever they
have one, and Gizmo's ``KAFKA_BROKER_HOSTS`` and ``KAFKA_TOPIC``.
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

from gizmopy.config.duration import Duration, format_duration
from gizmopy.config.marks import NamesCode, Shown
from gizmopy.config.plain_text import validated_text
from gizmopy.config.secrets.shown_fields import (
    is_marked_field,
    is_quotable,
    quotable_text,
    show_model,
)
from gizmopy.config.urls import redacted_url, validated_url
from gizmopy.config.validation import CommaList, validation_error
from gizmopy.errors import UsageError
from gizmopy.untrusted.hidden import hidden, size

SCHEME = "kafka"
_OF_A_GROUP = ("group", "group_instance_id")

_HOST = re.compile(r"(?P<name>[\w.-]+|\[[\da-fA-F:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _host(number: int, text: str) -> str:
    """Return ``host:port``, with Kafka's own port if there is none.

    The refusal gives the number of the host: a malformed host may be a login without its ``@``.
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
        remedy = "set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or begin a URL with it"
        raise validation_error("hosts hold no login", remedy)
    return tuple(map(_host, count(1), hosts))


def _long(duration: timedelta) -> timedelta:
    if not duration:
        raise validation_error("is 0", "write a duration like 30s")
    return duration


Some = Annotated[Duration, AfterValidator(_long)]
"""A duration above zero."""


class KafkaSettings(BaseModel):
    """Say how Kafka is reached, consumed and published to.

    Made from values; ``from_url`` reads them from a URL. Raises pydantic's ValidationError.
    """

    model_config = SettingsConfigDict(
        env_nested_delimiter="_",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # an error's text would otherwise hold the password
    )

    broker_hosts: Annotated[CommaList, AfterValidator(_hosts)] = Field(
        default=(), description="Where to ask for the cluster: host:port, with commas between."
    )
    topic: Annotated[str, Shown] = Field(
        default="", description="The topic of a channel, where a daemon has but one channel."
    )
    group: Annotated[str, Shown] = Field(
        default="",
        description="The group to consume in; default: each subscription's name, which is the "
        "service's unless it has one.",
    )
    client_id: Annotated[str, Shown] = Field(
        default="gizmopy", description="The name of this client at the brokers."
    )
    auto_offset_reset: Annotated[Literal["earliest", "latest", "none"], BeforeValidator(_lower)] = (
        Field(
            default="earliest",
            description="Where a group begins that has committed nothing, or whose offset is gone; "
            "none: that is an error.",
        )
    )
    isolation_level: Annotated[
        Literal["read_uncommitted", "read_committed"], BeforeValidator(_lower)
    ] = Field(
        default="read_uncommitted",
        description="Whether messages of transactions that were given up are received.",
    )
    group_instance_id: Annotated[str, Shown] = Field(
        default="",
        description="The name of this member for static membership, its own in the group: a "
        "restart within the session timeout moves no partition.",
    )
    session_timeout: Some = Field(
        default=timedelta(seconds=30),
        description="How long a member may be silent before its partitions go to others.",
    )
    rebalance_timeout: Some = Field(
        default=timedelta(seconds=60),
        description="How long members may take to let go of partitions that move: handlers "
        "that run have most of it to finish.",
    )
    commit_interval: Some = Field(
        default=timedelta(seconds=1), description="How often what is handled is committed."
    )
    commit_every: int = Field(
        default=10_000, gt=0, description="After how many messages it is committed at once."
    )
    partition_ahead: int = Field(
        default=10_000,
        gt=0,
        description="How far a partition is received beyond its first message that is not handled.",
    )
    metadata_max_age: Some = Field(
        default=timedelta(minutes=1),
        description="How soon partitions that were added are seen.",
    )
    delivery_timeout: Some = Field(
        default=timedelta(minutes=1),
        description="How long a message may wait for the brokers' confirmation.",
    )
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], BeforeValidator(_lower)
    ] = Field(default="none", description="How batches are compressed.")
    max_message_bytes: int = Field(
        default=1_000_000,
        gt=0,
        description="The most bytes of a message; brokers take 1 MiB with its frame by default.",
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], BeforeValidator(_upper)
    ] = Field(default="PLAINTEXT", description="Whether to use TLS (SSL), and to log in (SASL).")
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], BeforeValidator(_upper)
    ] = Field(default="PLAIN", description="How to log in.")
    sasl_username: str = Field(default="", description="Who logs in; in a URL before the @.")
    sasl_password: SecretStr = Field(
        default=SecretStr(""), description="The password; in a URL before the @."
    )
    sasl_token_provider: Annotated[str, Shown, NamesCode] = Field(
        default="",
        description="module:function, async and without arguments, that returns a token for "
        "OAUTHBEARER; not taken from .env.",
    )
    tls_ca: Annotated[str, Shown] = Field(
        default="", description="The file of the authorities to trust; default: the system's."
    )
    tls_cert: Annotated[str, Shown] = Field(
        default="", description="The file of the client's own certificate."
    )
    tls_key: Annotated[str, Shown] = Field(default="", description="The file of the key to it.")
    partitions: int = Field(
        default=4, gt=0, description="How many partitions a topic gets in tests and development."
    )
    replication_factor: int = Field(
        default=-1, description="How many replicas it gets there; -1: the brokers' default."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return validated_text(value)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from show_model(self).items()

    @classmethod
    def from_url(cls, url: str) -> KafkaSettings:
        """Return what ``kafka://user:password@host:port,host:port/topic?name=value`` says.

        Raises UsageError that names the parameter, its value and what to do.
        """
        parts = _split(url)
        try:
            settings = cls.model_validate(_values(parts))
        except ValidationError as error:  # not chained: it shows what was given
            problem = "; ".join(map(_problem, error.errors(include_url=False)))
        else:
            problem = _inconsistency(settings)
            if not problem:
                return settings
        raise UsageError(f"the Kafka URL {redacted_url(url, with_path=True)}: {problem}")

    def completed(self, url: str, topic: str = "") -> str:
        """Return a ``kafka://`` URL with what it leaves out and is set here; others as they are.

        The topic is not taken from here: it is ``topic`` where the URL names none. Raises
        UsageError on what is no URL.
        """
        parts = _split(url)
        if parts.scheme != SCHEME:
            return url
        fields = type(self).model_fields.items()
        changed = [name for name, field in fields if getattr(self, name) != field.default]
        values = {name: _text(getattr(self, name)) for name in changed} | {"topic": topic}
        values |= {name: value for name, value in _values(parts).items() if value}
        return _url(values)


def _inconsistency(settings: KafkaSettings) -> str:
    """Return what does not fit together and would look like an outage; empty where all fits."""
    protocol, mechanism = settings.security_protocol, settings.sasl_mechanism
    logs_in, password = protocol.startswith("SASL_"), settings.sasl_password.get_secret_value()
    if not settings.broker_hosts:
        return "names no broker; write kafka://host:port, or set KAFKA_BROKER_HOSTS"
    if (settings.sasl_username or password or settings.sasl_token_provider) and not logs_in:
        return (
            f"somebody is to log in, and security_protocol={protocol}; use sasl_ssl, or "
            "sasl_plaintext in a network that is safe"
        )
    if logs_in and mechanism == "OAUTHBEARER" and not settings.sasl_token_provider:
        return "OAUTHBEARER needs a token; set sasl_token_provider=module:function"
    if logs_in and mechanism != "OAUTHBEARER" and not (settings.sasl_username and password):
        return (
            f"{mechanism} needs a user and a password; set KAFKA_SASL_USERNAME and "
            "KAFKA_SASL_PASSWORD, or write kafka://user:password@host:port"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        return "one of tls_cert and tls_key is set; set both, or neither"
    if (settings.tls_ca or settings.tls_cert) and not protocol.endswith("SSL"):
        return f"TLS files are set, and security_protocol={protocol}; use ssl or sasl_ssl"
    if settings.rebalance_timeout < settings.session_timeout / 3:
        return (
            "rebalance_timeout is so short beside session_timeout that members hear of a rebalance "
            "too late; set it to a third of that or more"
        )
    return ""


def ungrouped(url: str) -> str:
    """Return a ``kafka://`` URL without the daemon's place in a group; others as they are."""
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        return url
    values = _values(parts)
    own = {name: text for name, text in values.items() if name not in _OF_A_GROUP}
    return _url(own)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(validated_url(url))
    except ValueError as error:
        raise UsageError(f"the URL of the broker {error}") from error


def _values(parts: SplitResult) -> dict[str, str]:
    """Return what a URL gives, by the name of each setting, unchecked."""
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    given = {
        "broker_hosts": hosts,
        "topic": unquote(parts.path.strip("/")),
        "sasl_username": unquote(user),
        "sasl_password": unquote(password),
    }
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return {name: value for name, value in given.items() if value} | query


def _url(values: dict[str, str]) -> str:
    """Return the URL that gives ``values``."""
    hosts, topic = values.pop("broker_hosts", ""), values.pop("topic", "")
    user, password = values.pop("sasl_username", ""), values.pop("sasl_password", "")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    path = f"/{quote(topic, safe='')}" if topic else ""
    query = f"?{urlencode(values)}" if values else ""
    # Hosts from a query are decoded: a "?" in them would begin parameters that were not judged.
    return f"{SCHEME}://{login}{quote(hosts, safe=':,[]')}{path}{query}"


def _text(value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _problem(error: Any) -> str:
    """Return what is wrong with a parameter, without the value of a secret one."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        from difflib import get_close_matches  # imported where it is used: cold starts matter

        known = sorted(KafkaSettings.model_fields)
        # A name that is like no parameter may be a piece of a password that was not escaped.
        subject = name if get_close_matches(name, known, n=1) else f"a name of {size(name)}"
        return f"{subject} is no parameter of kafka://; use one of: {', '.join(known)}"
    reason = error["msg"].removeprefix("Input ")
    if not name:
        return str(reason)
    marked = is_marked_field(KafkaSettings, name)
    if marked or is_quotable(KafkaSettings.model_fields[name].annotation):
        text = quotable_text(error["input"], marked=marked)
        if text is not None:
            return f"{name}={text} {reason}"
    return f"{name}={hidden(size(error['input']))} {reason}"
