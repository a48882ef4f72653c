"""The class that users subclass: what a daemon does, declared by its methods."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NoReturn

from gizmopy.config import Settings
from gizmopy.errors import DeclarationError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, MessageMiddleware
from gizmopy.server.run import run
from gizmopy.web import EndpointTable, HTTPMiddleware


class Service:
    """Declare a daemon: endpoints, subscriptions and health checks are its decorated methods.

    Subclass it and call ``run()``. What a subclass may set:

    - ``name``: the service's name (default: the SERVICE_NAME setting, else the class's name in
      lower case with hyphens). Subscriptions are named after it.
    - ``prefix``: what stands ahead of every endpoint's path, such as ``/svc``.
    - ``middleware``: functions that take a request handler and return one, outermost first.
    - ``message_middleware``: the same for the handlers of messages (those that take no batches);
      where it needs ``settings``, set it in ``__init__``.
    - ``settings``: annotate it with a subclass of ``Settings`` to have that class read.
    - ``lifespan``: an async context manager around the daemon's working life.
    """

    name: ClassVar[str] = ""
    prefix: ClassVar[str] = ""
    middleware: Sequence[HTTPMiddleware] = ()
    message_middleware: Sequence[MessageMiddleware] = ()
    settings: Settings

    _channels: Channels | None = None
    _metrics: Metrics | None = None

    def __init_subclass__(cls) -> None:
        """Refuse an endpoint or a subscription by a name that this class needs itself."""
        super().__init_subclass__()
        for name, member in vars(cls).items():
            marks = vars(member) if inspect.isfunction(member) else ()
            if hasattr(Service, name) and any(mark.startswith("__gizmo") for mark in marks):
                raise DeclarationError(member, f"{name!r} is Service's own; rename the method")

    def __init__(self, settings: Settings | None = None) -> None:
        """Keep ``settings``; without any, take the defaults of the class that is annotated."""
        self.settings = self.settings_class()() if settings is None else settings

    def endpoints(self) -> EndpointTable:
        """Return more endpoints as a table ``{path: {method: handler}}``, as in Gizmo."""
        return {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open what the daemon needs, yield while it works, and close it.

        It is entered before the first request or message, and left after the last one.
        """
        yield

    def publish(
        self,
        channel: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Publish ``value`` to ``channel`` and return when the broker has it.

        Models, dataclasses, dicts and lists travel as JSON, bytes and text as they are, protobuf
        messages in their own encoding; None is a tombstone. Messages of one ``key`` keep their
        order. Raises PubSubError where the broker refuses, UsageError where the daemon does not
        run.
        """
        if self._channels is None:
            raise UsageError(f"{type(self).__name__} does not run: it can publish once it does")
        return self._channels.publish(channel, value, key=key, attributes=attributes)

    async def publish_many(
        self,
        channel: str,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Sequence[Exception | None]:
        """Publish ``values`` to ``channel``, and return for each None or why it is not published.

        ``key`` is the key of all, or gives the key of a value, as in ``sorted``. Raises UsageError
        where the daemon does not run; never for an item.
        """
        if self._channels is None:
            raise UsageError(f"{type(self).__name__} does not run: it can publish once it does")
        return await self._channels.publish_many(channel, values, key=key, attributes=attributes)

    @property
    def metrics(self) -> Metrics:
        """Return the server's metrics: make own ones with ``registry=self.metrics.registry``.

        Raises UsageError where the daemon does not run yet: make them in ``lifespan``.
        """
        if self._metrics is None:
            raise UsageError(f"{type(self).__name__} does not run: its metrics come with a server")
        return self._metrics

    def attach(self, channels: Channels, metrics: Metrics) -> None:
        """Take what the server gives its service. Called by the server, once."""
        if self._channels is not None:
            raise UsageError(f"this {type(self).__name__} is served already; make another one")
        self._channels = channels
        self._metrics = metrics

    def service_name(self) -> str:
        """Return the name: the setting's, ``name``, or the class's as ``my-cats``."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", type(self).__name__)
        return self.settings.service_name or self.name or words.lower()

    @classmethod
    def settings_class(cls) -> type[Settings]:
        """Return the settings class that this class, or its nearest base, annotates.

        Raises DeclarationError where the annotation is no subclass of Settings, or names what its
        module does not have.
        """
        owner = next(base for base in cls.__mro__ if "settings" in inspect.get_annotations(base))
        annotated = inspect.get_annotations(owner)["settings"]
        if isinstance(annotated, str):
            annotated = getattr(sys.modules[owner.__module__], annotated, annotated)
        if not (isinstance(annotated, type) and issubclass(annotated, Settings)):
            reason = (
                f"settings is annotated with {annotated!r}; "
                "use a subclass of gizmopy.Settings that its module knows by that name"
            )
            raise DeclarationError(owner, reason)
        return annotated

    @classmethod
    def run(cls, argv: Sequence[str] | None = None) -> NoReturn:
        """Run this service until SIGTERM or SIGINT, then end the process.

        Settings come from the environment, files and ``argv`` (default: the command line). Ends
        with exit code 0 after a clean drain, 70 where the time for it ran out, 2 where settings or
        declarations are wrong, and 1 where the daemon could not start or went down.
        """
        raise SystemExit(run(cls, argv))
