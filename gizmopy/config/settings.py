"""The standard settings of every daemon; a daemon's own settings subclass them.

Settings are values: making them reads nothing. ``gizmopy.config.load`` reads the environment, files
and flags. The environment names are Gizmo's wherever Gizmo had one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.duration import Duration
from gizmopy.config.hosts import HostNames
from gizmopy.config.marks import Shown
from gizmopy.config.plain_text import validated_text
from gizmopy.config.secrets.shown_fields import show_model
from gizmopy.config.urls import BrokerUrl
from gizmopy.config.validation import CommaList, comma_list, validation_error

_GIZMO_HEALTH_CHECKS = {"": "simple", "esx": "lb"}
_GIZMO_LEVELS = {"warn": "warning", "fatal": "critical", "panic": "critical", "trace": "debug"}


def _level(value: object) -> object:
    if not isinstance(value, str):
        return value
    level = value.strip().lower()
    return _GIZMO_LEVELS.get(level, level)


def _health_check(value: object) -> object:
    if not isinstance(value, str):
        return value
    kind = value.strip().lower()
    return _GIZMO_HEALTH_CHECKS.get(kind, kind)


def _header_value(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise validation_error(
            "is no value of a header", "write printable ASCII, as in application/json"
        )
    return text


def _hsts(text: str) -> str:
    """Return a value of Strict-Transport-Security (RFC 6797 section 6.1): max-age, and flags."""
    parts = [part.strip().lower() for part in text.split(";")]
    ages = [part.removeprefix("max-age=") for part in parts if part.startswith("max-age=")]
    flags = [part for part in parts if part in ("includesubdomains", "preload")]
    is_age = len(ages) == 1 and ages[0].isdecimal() and len(ages[0]) <= 10
    if text and not (is_age and 1 + len(set(flags)) == len(parts)):
        raise validation_error(
            "is no value of Strict-Transport-Security",
            "write max-age=31536000, or max-age=31536000; includeSubDomains",
        )
    return text


def _network(value: object) -> object:
    """Return the network that a text is; what is none of both is pydantic's to refuse."""
    if not isinstance(value, str):
        return value
    try:
        return ip_network(value)
    except ValueError as error:
        raise validation_error(
            str(error), "write networks like 10.0.0.0/8, with commas between"
        ) from None


def _rooted(path: str) -> str:
    if not path.startswith("/"):
        raise validation_error("does not begin with a slash", f"write /{path}")
    return path


def channel_key(name: str) -> str:
    """Return a channel's name as environment names spell it: upper case, ``_`` for all else."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _by_channel(urls: Mapping[str, Any]) -> dict[str, Any]:
    names: dict[str, str] = {}
    for name in urls:
        key = channel_key(str(name))
        if key in names:
            raise validation_error(
                f"{names[key]!r} and {name!r} are both {key}", "keep one of them"
            )
        names[key] = name
    return {key: urls[name] for key, name in names.items()}


LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)
]
HealthCheckType = Annotated[Literal["simple", "custom", "lb"], BeforeValidator(_health_check)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(comma_list)]
Text = Annotated[str, Shown]
"""Text that is no secret: an address, a path, a name."""
UrlPath = Annotated[Text, AfterValidator(_rooted)]


@dataclass(frozen=True, slots=True)
class FromPrefix:
    """Mark a dict that takes an entry from every environment name with ``prefix``.

    An entry's key is the rest of the name, spelled as ``channel_key`` spells it, in files too.
    """

    prefix: str


class Settings(BaseSettings):
    """Say how a daemon runs: where it listens, what it logs, how it stops, which broker it uses.

    Subclass it for a daemon's own settings; a nested model is a section (``DATABASE__HOST``,
    ``--database.host``). Takes the values it is given, by a field's name or by its environment
    name, and nothing else: no environment, no file. Raises pydantic's ValidationError.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,  # an error's text would otherwise hold secrets
    )

    service_name: Text = Field(
        default="",
        validation_alias="SERVICE_NAME",
        description="The service's name in logs, metrics and subscriptions; empty: its class's.",
    )
    service_version: Text = Field(
        default="",
        validation_alias="SERVICE_VERSION",
        description="The version that the service tells.",
    )
    http_addr: Text = Field(
        default="127.0.0.1",
        validation_alias="HTTP_ADDR",
        description="The address to listen on; 0.0.0.0 for every one; unix:/path for a socket.",
    )
    http_port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("HTTP_PORT", "PORT"),
        description="The port to listen on; 0 takes a free one.",
    )
    tls_cert: Text = Field(
        default="",
        validation_alias="TLS_CERT",
        description="The certificate chain's file (PEM); with TLS_KEY, HTTPS is served.",
    )
    tls_key: Text = Field(
        default="",
        validation_alias="TLS_KEY",
        description="The private key's file (PEM).",
    )
    tls_client_ca: Text = Field(
        default="",
        validation_alias="TLS_CLIENT_CA",
        description="Authorities' file (PEM); clients of the main port must show a certificate.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        validation_alias="GIZMO_TRUSTED_PROXIES",
        description="Networks of proxies whose word on the client's address is taken.",
    )
    proxy_protocol: bool = Field(
        default=False,
        validation_alias="GIZMO_PROXY_PROTOCOL",
        description="Whether trusted proxies begin each connection with a PROXY header.",
    )
    log_level: LogLevel = Field(
        default="info",
        validation_alias="APP_LOG_LEVEL",
        description="The least severe level that is logged.",
    )
    log_json: bool | None = Field(
        default=None,
        validation_alias="APP_LOG_JSON_FMT",
        description="Whether a log line is JSON; unset: unless the output is a terminal.",
    )
    log_fields: Literal["plain", "gcp"] = Field(
        default="plain",
        validation_alias="GIZMO_LOG_FIELDS",
        description="The names of a JSON line's fields: plain, or those that Google Cloud reads.",
    )
    log_file: Text = Field(
        default="",
        validation_alias="APP_LOG",
        description="Where the log goes: stderr (the same as empty), stdout or a file's path.",
    )
    http_access_log: Text = Field(
        default="",
        validation_alias="HTTP_ACCESS_LOG",
        description="Where the access log goes: off, stdout, stderr or a path; empty: to the log.",
    )
    access_log_format: Literal["own", "combined"] = Field(
        default="own",
        validation_alias="GIZMO_ACCESS_LOG_FORMAT",
        description="How an access line is written: our own way, or Apache's combined one.",
    )
    log_probes: bool = Field(
        default=False,
        validation_alias="GIZMO_LOG_PROBES",
        description="Whether probes and scrapes are in the access log.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024,
        gt=0,
        validation_alias="GIZMO_MAX_HEADER_BYTES",
        description="The longest head (request line and fields together) that is read, in bytes.",
    )
    max_body_bytes: int = Field(
        default=1024 * 1024,
        gt=0,
        validation_alias="GIZMO_MAX_BODY_BYTES",
        description="The longest request body that is read, in bytes, as it is decompressed.",
    )
    max_concurrent_requests: int = Field(
        default=0,
        ge=0,
        validation_alias="GIZMO_MAX_CONCURRENT_REQUESTS",
        description="How many requests are served at a time; more are answered 503; 0: no limit.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        validation_alias="GIZMO_MAX_CONNECTIONS",
        description="How many connections are open at a time; unset: as file descriptors allow.",
    )
    max_requests_per_connection: int = Field(
        default=0,
        ge=0,
        validation_alias="GIZMO_MAX_REQUESTS_PER_CONNECTION",
        description="How many requests a connection serves before it closes; 0: no limit.",
    )
    max_connection_age: Duration = Field(
        default=timedelta(0),
        ge=timedelta(0),
        validation_alias="GIZMO_MAX_CONNECTION_AGE",
        description="How old a connection gets before it closes with an answer; 0s: no limit.",
    )
    read_timeout: Duration = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        validation_alias="GIZMO_READ_TIMEOUT",
        description="How long a client may take to send a request.",
    )
    handler_timeout: Duration = Field(
        default=timedelta(0),
        validation_alias="GIZMO_HANDLER_TIMEOUT",
        description="How long an endpoint may take to begin its answer; 0s: no limit.",
    )
    write_timeout: Duration = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        validation_alias="GIZMO_WRITE_TIMEOUT",
        description="How long a client may read nothing of an answer that waits for it.",
    )
    min_send_rate: int = Field(
        default=2048,
        ge=0,
        validation_alias="GIZMO_MIN_SEND_RATE",
        description="How many bytes a second a client has to take of an answer that waits; 0: any.",
    )
    idle_timeout: Duration = Field(
        default=timedelta(seconds=120),
        gt=timedelta(0),
        validation_alias="GIZMO_IDLE_TIMEOUT",
        description="How long a connection is kept open without a request.",
    )
    publish_linger: Duration = Field(
        default=timedelta(0),
        validation_alias="GIZMO_PUBLISH_LINGER",
        description="How long a batch of published messages may wait to fill.",
    )
    shutdown_timeout: Duration = Field(
        default=timedelta(seconds=18),
        validation_alias="GIZMO_SHUTDOWN_TIMEOUT",
        description="How long requests and messages in hand may take to finish when it stops.",
    )
    drain_delay: Duration | None = Field(
        default=None,
        validation_alias="GIZMO_DRAIN_DELAY",
        description="How long it still listens when it stops; unset: 5s on Kubernetes, else 0s.",
    )
    termination_grace: Duration = Field(
        default=timedelta(seconds=30),
        validation_alias="GIZMO_TERMINATION_GRACE",
        description="How long the platform waits before it kills; a longer shutdown is warned of.",
    )
    health_check_path: UrlPath = Field(
        default="/status.txt",
        validation_alias="GIZMO_HEALTH_CHECK_PATH",
        description="The path of the health check.",
    )
    health_check_type: HealthCheckType = Field(
        default="simple",
        validation_alias="GIZMO_HEALTH_CHECK_TYPE",
        description="simple; custom: the service serves it; lb: stop once balancers have seen it.",
    )
    health_interval: Duration = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        validation_alias="GIZMO_HEALTH_INTERVAL",
        description="How old the result of a health check may be.",
    )
    liveness_stall: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        validation_alias="GIZMO_LIVENESS_STALL",
        description="How long the event loop may stand still and count as alive.",
    )
    metrics_path: UrlPath = Field(
        default="/metrics", validation_alias="METRICS_PATH", description="The path of the metrics."
    )
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        validation_alias="GIZMO_ADMIN_PORT",
        description="A port for metrics and /debug alone; unset: they are on the main port.",
    )
    admin_addr: Text = Field(
        default="127.0.0.1",
        validation_alias="GIZMO_ADMIN_ADDR",
        description="The address that the admin port listens on.",
    )
    debug: bool | None = Field(
        default=None,
        validation_alias="GIZMO_DEBUG",
        description="Whether /debug is served; unset: if a token or ENABLE_PPROF is set.",
    )
    debug_token: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="GIZMO_DEBUG_TOKEN",
        description="The token of /debug; empty: made and logged at start, on loopback only.",
    )
    enable_pprof: bool = Field(
        default=False,
        validation_alias="ENABLE_PPROF",
        description="Whether /debug has profiles, /debug/pprof/; turns /debug on.",
    )
    openapi: bool = Field(
        default=True,
        validation_alias="GIZMO_OPENAPI",
        description="Whether /openapi.json and /docs are served.",
    )
    cors_origins: Annotated[CommaList, Shown] = Field(
        default=(),
        validation_alias="GIZMO_CORS_ORIGINS",
        description="Origins whose pages may call: https://a.example, https://*.b.example, or *.",
    )
    allowed_hosts: Annotated[HostNames, Shown] = Field(
        default=(),
        validation_alias="GIZMO_ALLOWED_HOSTS",
        description="Hosts that requests may name: a.example, *.b.example; unset: every host.",
    )
    hsts: Annotated[Text, AfterValidator(_header_value), AfterValidator(_hsts)] = Field(
        default="",
        validation_alias="GIZMO_HSTS",
        description="Strict-Transport-Security of answers over TLS, such as max-age=31536000.",
    )
    json_content_type: Annotated[Text, AfterValidator(_header_value)] = Field(
        default="application/json",
        validation_alias="GIZMO_JSON_CONTENT_TYPE",
        description="The content type of JSON answers.",
    )
    loop: Literal["auto", "asyncio", "uvloop"] = Field(
        default="auto",
        validation_alias="GIZMO_LOOP",
        description="The event loop; auto: uvloop where it is installed.",
    )
    pubsub_url: BrokerUrl = Field(
        default="memory://",
        validation_alias="GIZMO_PUBSUB_URL",
        description="The broker of every channel that has no URL of its own.",
    )
    topics: Annotated[dict[Text, BrokerUrl], FromPrefix("GIZMO_TOPIC_")] = Field(
        default_factory=dict, description="The URL to publish one channel to, by channel."
    )
    subscriptions: Annotated[dict[Text, BrokerUrl], FromPrefix("GIZMO_SUBSCRIPTION_")] = Field(
        default_factory=dict, description="The URL to consume one channel from, by channel."
    )
    kafka: KafkaSettings = Field(
        default_factory=KafkaSettings,
        description="What a Kafka driver is told; a URL may have each behind its ?, and beats it.",
    )

    @property
    def broker_url(self) -> str:
        """The URL of the broker of every channel that has none of its own, complete.

        Where no URL is given, brokers in ``KAFKA_BROKER_HOSTS`` are the URL.
        """
        is_kafka = self.kafka.broker_hosts and "pubsub_url" not in self.model_fields_set
        return self.kafka.completed("kafka://" if is_kafka else self.pubsub_url, self.kafka.topic)

    @property
    def topic_urls(self) -> dict[str, str]:
        """The URLs to publish single channels to, complete."""
        return {key: self.kafka.completed(url) for key, url in self.topics.items()}

    @property
    def subscription_urls(self) -> dict[str, str]:
        """The URLs to consume single channels from, complete."""
        return {key: self.kafka.completed(url) for key, url in self.subscriptions.items()}

    @model_validator(mode="after")
    def _tls_in_pairs(self) -> Settings:
        if bool(self.tls_cert) != bool(self.tls_key):
            given, other = ("TLS_CERT", "TLS_KEY") if self.tls_cert else ("TLS_KEY", "TLS_CERT")
            raise validation_error(f"{given} is set without {other}", "set both, or neither")
        if self.tls_client_ca and not self.tls_cert:
            reason = "TLS_CLIENT_CA is set without TLS_CERT and TLS_KEY"
            raise validation_error(
                reason, "set all three, or none: a client's certificate needs TLS"
            )
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return validated_text(value)

    @model_validator(mode="after")
    def _proxy_protocol_is_possible(self) -> Settings:
        if self.proxy_protocol and not self.trusted_proxies:
            reason = "GIZMO_PROXY_PROTOCOL is set without GIZMO_TRUSTED_PROXIES"
            raise validation_error(
                reason, "set the proxies' networks: every other address is refused"
            )
        if self.proxy_protocol and self.tls_cert:
            reason = "GIZMO_PROXY_PROTOCOL and TLS_CERT are set, and both begin a connection"
            raise validation_error(reason, "end TLS in the proxy, or unset GIZMO_PROXY_PROTOCOL")
        return self

    @field_validator("topics", "subscriptions", mode="before")
    @classmethod
    def _by_channel(cls, urls: object) -> object:
        return _by_channel(urls) if isinstance(urls, Mapping) else urls

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a field that no flag could reach, when its class is declared."""
        super().__pydantic_init_subclass__(**kwargs)
        if "config" in cls.model_fields:
            raise TypeError(f"{cls.__name__}.config: --config names the file; rename the field")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the given values only."""
        return (init_settings,)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from show_model(self).items()
