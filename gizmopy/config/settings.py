"""The standard settings of every daemon; a daemon's own settings subclass them.

Settings are values: constructing them reads nothing. ``gizmopy.config.load`` reads the environment,
files and flags. The environment names are Gizmo's if Gizmo has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gizmopy.config.secrets.redaction import redacted_model
from gizmopy.config.sections.broker import BrokerSettings, PublishSettings
from gizmopy.config.sections.debug import DebugSettings
from gizmopy.config.sections.health import HealthSettings
from gizmopy.config.sections.http import (
    AddressSettings,
    LimitSettings,
    ProxySettings,
    ResponseSettings,
)
from gizmopy.config.sections.logs import LogSettings
from gizmopy.config.sections.service import EventLoopSettings, ServiceSettings
from gizmopy.config.sections.shutdown import ShutdownSettings
from gizmopy.config.sections.tls import TLSSettings
from gizmopy.config.validation import validation_error


# pydantic collects fields from the last base class to the first, so this list ends with the
# settings that reports and docs/settings.md show first.
class Settings(
    BrokerSettings,
    EventLoopSettings,
    ResponseSettings,
    DebugSettings,
    HealthSettings,
    ShutdownSettings,
    PublishSettings,
    LimitSettings,
    LogSettings,
    ProxySettings,
    TLSSettings,
    AddressSettings,
    ServiceSettings,
    BaseSettings,
):
    """The settings of a daemon: its address, its log, its shutdown, its broker, and others.

    Subclass it for a daemon's own settings; a nested model is a section (``DATABASE__HOST``,
    ``--database.host``). Takes values by a field's name or by its environment name, and reads no
    environment and no file. Raises pydantic's ValidationError.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        defer_build=False,
        # The text of a ValidationError would otherwise quote secrets.
        hide_input_in_errors=True,
    )

    @model_validator(mode="after")
    def _require_proxies_for_proxy_protocol(self) -> Self:
        if self.proxy_protocol and not self.trusted_proxies:
            reason = "GIZMO_PROXY_PROTOCOL is set without GIZMO_TRUSTED_PROXIES"
            remedy = "set the networks of the proxies: connections from others are closed"
            raise validation_error(reason, remedy)
        if self.proxy_protocol and self.tls_cert:
            reason = "GIZMO_PROXY_PROTOCOL and TLS_CERT are set, and both begin a connection"
            raise validation_error(reason, "end TLS in the proxy, or unset GIZMO_PROXY_PROTOCOL")
        return self

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raise TypeError if a field is named ``config``: ``--config`` names the settings file."""
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
        """Use only the values that are passed."""
        return (init_settings,)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from redacted_model(self).items()
