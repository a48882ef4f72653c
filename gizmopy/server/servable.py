"""What a server needs of what it serves: it knows a service by this shape, not by its class."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Protocol, TypeVar

from gizmopy.config import Settings
from gizmopy.errors import DeclarationError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels
from gizmopy.web import EndpointTable, HTTPMiddleware


class Servable(Protocol):
    """Declare endpoints, subscriptions and health checks by methods; Service says how."""

    prefix: ClassVar[str]
    middleware: Sequence[HTTPMiddleware]
    settings: Settings

    def __init__(self, settings: Settings | None = None) -> None: ...

    @classmethod
    def settings_class(cls) -> type[Settings]:
        """Return the class of its settings."""

    def service_name(self) -> str:
        """Return its name."""

    def endpoints(self) -> EndpointTable:
        """Return its table of endpoints."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return the context of its working life."""

    def attach(self, channels: Channels, metrics: Metrics) -> None:
        """Take what the server gives."""


ServableT = TypeVar("ServableT", bound=Servable)


def make_service(kind: type[ServableT], settings: Settings) -> ServableT:
    """Return a service of class ``kind`` with ``settings``.

    Raises DeclarationError where its ``__init__`` does not take them, or does not keep them.
    """
    try:
        inspect.signature(kind).bind(settings)
    except TypeError as error:
        reason = "must take the settings: def __init__(self, settings: Settings | None = None)"
        raise DeclarationError(kind.__init__, reason) from error
    service = kind(settings)
    if not hasattr(service, "settings"):
        raise DeclarationError(kind.__init__, "must call super().__init__(settings)")
    return service
