"""The class that users subclass: a daemon is declared by its methods."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NoReturn, TypeVar

from gizmopy._deprecated import override, renamed_method
from gizmopy.config import Settings
from gizmopy.errors import DeclarationError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, MessageMiddleware
from gizmopy.pubsub.codecs import encoder_for
from gizmopy.web import EndpointTable, HTTPMiddleware

_NAME_REMEDY = "set the class attribute name"
_SETTINGS_REMEDY = "annotate the class attribute settings"


def service_name(service: Service) -> str:
    """Return SERVICE_NAME, else ``Service.name``, else the name of the class, as ``my-cats``."""
    own = override(type(service), Service, "service_name", _NAME_REMEDY)
    return _own_name(service) if own is None else own(service)


def _own_name(service: Service) -> str:
    class_name = type(service).__name__
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name)
    return service.settings.service_name or service.name or words.lower()


def settings_class(kind: type[Service]) -> type[Settings]:
    """Return the settings class that ``kind``, or its nearest base, annotates.

    Raises DeclarationError if the annotation is not a subclass of Settings, or is a name that its
    module does not define.
    """
    own = override(kind, Service, "settings_class", _SETTINGS_REMEDY)
    return _annotated_class(kind) if own is None else own()


def _annotated_class(kind: type[Service]) -> type[Settings]:
    owner = next(base for base in kind.__mro__ if "settings" in inspect.get_annotations(base))
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


def declared_channels(service: Service) -> dict[str, Any]:
    """Return the channels in ``publishes`` of a service and its bases, with their types or None.

    Raises DeclarationError if a name or a type cannot be used.
    """
    kind = type(service)
    channels: dict[Any, Any] = {}
    for owner in map(vars, reversed(kind.__mro__)):
        declared = owner.get("publishes", ())
        if isinstance(declared, str) or not isinstance(declared, Mapping | Sequence):
            remedy = 'write {"channel": Type}, or ("channel",)'
            raise DeclarationError(kind, f"publishes={declared!r} is not a mapping; {remedy}")
        channels |= declared if isinstance(declared, Mapping) else dict.fromkeys(declared)
    for channel, type_ in channels.items():
        if not (isinstance(channel, str) and channel):
            raise DeclarationError(kind, f"publishes has {channel!r}, not the name of a channel")
        try:
            encoder_for(type_)
        except UsageError as error:
            raise DeclarationError(kind, f"publishes[{channel!r}]: {error}") from error
    return channels


class Service:
    """Declare a daemon: endpoints, subscriptions and health checks are its decorated methods.

    Subclass it and call ``run()``. A subclass may set:

    - ``name``: the service's name (default: the SERVICE_NAME setting, else the class's name in
      lower case with hyphens). Subscriptions are named after it.
    - ``prefix``: the start of every endpoint's path, such as ``/svc``.
    - ``middleware``: functions that take a request handler and return one, outermost first.
    - ``message_middleware``: the same for message handlers, except those that take batches. If it
      needs ``settings``, set it in ``__init__``.
    - ``publishes``: the channels that the service publishes to, with the type of their values:
      ``{"cats": Cat, "audit": None}``, or names alone, ``("cats", "audit")``. They are checked and
      connected at the start. Base classes add theirs.
    - ``settings``: annotate it with a subclass of ``Settings`` to have that class loaded.
    - ``lifespan``: an async context manager around the daemon's working life.
    """

    name: ClassVar[str] = ""
    prefix: ClassVar[str] = ""
    middleware: Sequence[HTTPMiddleware] = ()
    message_middleware: Sequence[MessageMiddleware] = ()
    publishes: ClassVar[Mapping[str, Any] | Sequence[str]] = ()
    settings: Settings

    _channels: Channels | None = None
    _metrics: Metrics | None = None

    def __init_subclass__(cls) -> None:
        """Refuse an endpoint, subscription or health check with a name of Service's own."""
        super().__init_subclass__()
        for name, member in vars(cls).items():
            function = getattr(member, "__func__", member)  # a static or class method wraps one
            marks = vars(function) if inspect.isfunction(function) else ()
            if hasattr(Service, name) and any(mark.startswith("__gizmo") for mark in marks):
                raise DeclarationError(
                    member, f"{name!r} is a member of Service; rename the method"
                )

    def __init__(self, settings: Settings | None = None) -> None:
        """Keep ``settings``; the default is the annotated class with its own defaults."""
        self.settings = settings_class(type(self))() if settings is None else settings

    def endpoints(self) -> EndpointTable:
        """Return more endpoints as a table ``{path: {method: handler}}``, as in Gizmo."""
        return {}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open resources, yield while the daemon works, and close them.

        It is entered before the first request or message, and left after the last one. Endpoints,
        handlers and health checks run in copies of its context: they see a ContextVar that it sets.
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
        """Publish ``value`` to ``channel`` and return when the broker has confirmed it.

        Models, dataclasses, dicts and lists are sent as JSON, bytes and text as they are, protobuf
        messages in their own encoding; None is a tombstone. Messages with the same ``key`` keep
        their order. Raises PubSubError if the broker refuses the message, and UsageError if the
        daemon is not running.
        """
        if self._channels is None:
            raise UsageError(f"{type(self).__name__} is not running: publish from lifespan on")
        return self._channels.publish(channel, value, key=key, attributes=attributes)

    async def publish_many(
        self,
        channel: str,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Sequence[Exception | None]:
        """Publish ``values`` to ``channel`` and return one result for each: None, or its error.

        ``key`` is the key of all values, or a function that returns the key of a value, as in
        ``sorted``. Raises UsageError if the daemon is not running; an item never raises.
        """
        if self._channels is None:
            raise UsageError(f"{type(self).__name__} is not running: publish from lifespan on")
        return await self._channels.publish_many(channel, values, key=key, attributes=attributes)

    @property
    def metrics(self) -> Metrics:
        """Return the server's metrics: add your own with ``registry=self.metrics.registry``.

        Raises UsageError before the server exists: create metrics in ``lifespan``.
        """
        if self._metrics is None:
            raise UsageError(f"{type(self).__name__} has no metrics yet: create them in lifespan")
        return self._metrics

    def _attach(self, channels: Channels, metrics: Metrics) -> None:
        """Connect the service to its server, which calls this once."""
        # A second server would replace the channels of the first, which still handles requests.
        if self._channels is not None:
            raise UsageError(f"this {type(self).__name__} already has a server; make another one")
        self._channels = channels
        self._metrics = metrics

    attach = renamed_method("Service.attach", "a server attaches itself", _attach)
    service_name = renamed_method("Service.service_name", _NAME_REMEDY, _own_name)
    settings_class = classmethod(
        renamed_method("Service.settings_class", _SETTINGS_REMEDY, _annotated_class)
    )

    @classmethod
    def run(cls, argv: Sequence[str] | None = None) -> NoReturn:
        """Run this service until SIGTERM or SIGINT, then end the process.

        Settings come from the environment, files and ``argv`` (default: the command line). The exit
        code is 0 after a clean drain, 70 if the deadline forced it, 2 if settings or declarations
        are wrong, and 1 if the daemon could not start or failed.
        """
        from gizmopy.server.run import run  # it needs this module

        raise SystemExit(run(cls, argv))


S = TypeVar("S", bound=Service)


def make_service(kind: type[S], settings: Settings) -> S:
    """Return a service of class ``kind`` with ``settings``.

    Raises DeclarationError if its ``__init__`` does not take the settings or does not keep them.
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
