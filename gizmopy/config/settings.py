"""The standard settings of every daemon; a daemon's own settings subclass them.

Settings are values: constructing them reads nothing. ``gizmopy.config.load`` reads the environment,
files and flags. The environment names are Gizmo's if Gizmo has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gizmopy.config.declarations import check_class
from gizmopy.config.plain_durations import with_durations
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

_SOURCE_OPTIONS = frozenset(
    name for name in inspect.signature(BaseSettings.__init__).parameters if name.startswith("_")
)
"""The arguments of pydantic-settings that choose its sources: ``_env_file``, ``_secrets_dir``."""


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

    @model_validator(mode="before")
    @classmethod
    def _read_durations(cls, values: Any) -> Any:
        return with_durations(cls, values)

    if not TYPE_CHECKING:  # a type checker would lose the names of the settings

        def __init__(self, /, **values: Any) -> None:
            """Take values by name, and refuse the options of pydantic-settings' sources."""
            # Not BaseSettings.__init__, which reads sources, warns of options that only its own
            # sources use, and with PYDANTIC_SETTINGS_DEBUG logs the values.
            for name in values:
                if name in _SOURCE_OPTIONS:
                    raise TypeError(
                        f"{type(self).__name__}({name}=…): settings that code constructs read no "
                        "source; call gizmopy.config.load, or write the values"
                    )
            BaseModel.__init__(self, **values)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raise DeclarationError if a declaration has no effect, when its class is declared."""
        super().__pydantic_init_subclass__(**kwargs)
        check_class(cls, Settings)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from redacted_model(self).items()
