"""The standard settings of every daemon; a daemon's own settings subclass them.

Settings are values: making them reads nothing. ``gizmopy.config.load`` reads the environment, files
and flags. The environment names are Gizmo's wherever Gizmo had one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gizmopy.config.duration import Duration
from gizmopy.config.masking import masked
from gizmopy.config.refusal import refusal

_GIZMO_LEVELS = {"warn": "warning", "fatal": "critical", "panic": "critical", "trace": "debug"}


def _level(value: object) -> object:
    if not isinstance(value, str):
        return value
    level = value.strip().lower()
    return _GIZMO_LEVELS.get(level, level)


def _rooted(path: str) -> str:
    if not path.startswith("/"):
        raise refusal("does not begin with a slash", f"write /{path}")
    return path


def channel_key(name: str) -> str:
    """Return a channel's name as environment names spell it: upper case, ``_`` for all else."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _by_channel(urls: Mapping[str, Any]) -> dict[str, Any]:
    names: dict[str, str] = {}
    for name in urls:
        key = channel_key(str(name))
        if key in names:
            raise refusal(f"{names[key]!r} and {name!r} are both {key}", "keep one of them")
        names[key] = name
    return {key: urls[name] for key, name in names.items()}


LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)
]
UrlPath = Annotated[str, AfterValidator(_rooted)]


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

    service_name: str = Field(
        default="",
        validation_alias="SERVICE_NAME",
        description="The service's name in logs, metrics and subscriptions; empty: its class's.",
    )
    service_version: str = Field(
        default="",
        validation_alias="SERVICE_VERSION",
        description="The version that the service tells.",
    )
    http_addr: str = Field(
        default="127.0.0.1",
        validation_alias="HTTP_ADDR",
        description="The address to listen on; 0.0.0.0 for every one, as in a container.",
    )
    http_port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("HTTP_PORT", "PORT"),
        description="The port to listen on; 0 takes a free one.",
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
    log_file: str = Field(
        default="",
        validation_alias="APP_LOG",
        description="Where the log goes: stderr (the same as empty), stdout or a file's path.",
    )
    http_access_log: str = Field(
        default="",
        validation_alias="HTTP_ACCESS_LOG",
        description="Where the access log goes: off, stdout, stderr or a path; empty: to the log.",
    )
    max_header_bytes: int = Field(
        default=16384,
        gt=0,
        validation_alias="GIZMO_MAX_HEADER_BYTES",
        description="The longest request line or header field that is read, in bytes.",
    )
    max_body_bytes: int = Field(
        default=1024 * 1024,
        gt=0,
        validation_alias="GIZMO_MAX_BODY_BYTES",
        description="The longest request body that is read, in bytes.",
    )
    read_timeout: Duration = Field(
        default=timedelta(seconds=10),
        validation_alias="GIZMO_READ_TIMEOUT",
        description="How long a client may take to send a request.",
    )
    idle_timeout: Duration = Field(
        default=timedelta(seconds=120),
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
    health_check_path: UrlPath = Field(
        default="/status.txt",
        validation_alias="GIZMO_HEALTH_CHECK_PATH",
        description="The path of the health check.",
    )
    metrics_path: UrlPath = Field(
        default="/metrics", validation_alias="METRICS_PATH", description="The path of the metrics."
    )
    json_content_type: str = Field(
        default="application/json",
        validation_alias="GIZMO_JSON_CONTENT_TYPE",
        description="The content type of JSON answers.",
    )
    loop: Literal["auto", "asyncio", "uvloop"] = Field(
        default="auto",
        validation_alias="GIZMO_LOOP",
        description="The event loop; auto: uvloop where it is installed.",
    )
    pubsub_url: str = Field(
        default="memory://",
        validation_alias="GIZMO_PUBSUB_URL",
        description="The broker of every channel that has no URL of its own.",
    )
    topics: Annotated[dict[str, str], FromPrefix("GIZMO_TOPIC_")] = Field(
        default_factory=dict, description="The URL to publish one channel to, by channel."
    )
    subscriptions: Annotated[dict[str, str], FromPrefix("GIZMO_SUBSCRIPTION_")] = Field(
        default_factory=dict, description="The URL to consume one channel from, by channel."
    )

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
        yield from masked(self).items()
