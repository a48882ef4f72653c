"""What a server needs of what it serves: it knows a service by this shape, not by its class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Protocol

from gizmopy.config import Settings
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels
from gizmopy.web import Endpoints, Middleware


class Servable(Protocol):
    """Declare endpoints, subscriptions and health checks by methods; Service says how."""

    prefix: ClassVar[str]
    middleware: Sequence[Middleware]
    settings: Settings

    def __init__(self, settings: Settings | None = None) -> None: ...

    @classmethod
    def settings_class(cls) -> type[Settings]:
        """Return the class of its settings."""

    def service_name(self) -> str:
        """Return its name."""

    def endpoints(self) -> Endpoints:
        """Return its table of endpoints."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return the context of its working life."""

    def attach(self, channels: Channels, metrics: Metrics) -> None:
        """Take what the server gives."""
