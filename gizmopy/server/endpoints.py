"""The class that declares endpoints, message handlers, health checks and jobs by its methods.

A service is one, and mounts others: that is how its declarations are split among modules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar

from gizmopy.errors import DeclarationError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, MessageMiddleware
from gizmopy.untrusted.durations import DurationLike
from gizmopy.web import EndpointTable, HTTPMiddleware
from gizmopy.web.declared_problems import ProblemTable
from gizmopy.web.security.declared import Checkers, Inherited

_HERE = __name__.rpartition(".")[0]


class Endpoints:
    """Declare endpoints, subscriptions, health checks and jobs in a module of their own.

    Subclass it, give the constructor what the methods need, and return the object from the
    ``mounts()`` of a service. A subclass, or an object, may set:

    - ``prefix``: the start of each endpoint's path, after the prefix of the service.
    - ``tags``: the group of its endpoints in the OpenAPI document (default: the class's name).
    - ``middleware``: functions that take a request handler and return one, outermost first.
    - ``message_middleware``: the same for message handlers, except those that take batches.
    - ``security``: the checkers of which one has to accept a request for its endpoints (default:
      those of the service; None: everybody may call).
    - ``problems``: the problem of each exception: a status, a Problem, or a function that takes the
      exception and returns one. Base classes, and the service, add theirs.
    - ``publishes``: the channels that it publishes to, as a service has them.

    The middleware of the service is outside of both.
    """

    prefix: str = ""
    tags: Sequence[str] = ()
    middleware: Sequence[HTTPMiddleware] = ()
    message_middleware: Sequence[MessageMiddleware] = ()
    security: Checkers = Inherited.INHERITED
    problems: ClassVar[ProblemTable] = MappingProxyType({})
    publishes: ClassVar[Mapping[str, Any] | Sequence[str]] = ()

    _not_running: ClassVar[str] = "is not mounted on a running service"
    _channels: Channels | None = None
    _metrics: Metrics | None = None

    def __init_subclass__(cls) -> None:
        """Refuse an endpoint, subscription, health check or job with a name of this class's own."""
        super().__init_subclass__()
        # Service, or this class: the nearest of the two that the subclass inherits from.
        base = next(each for each in cls.__mro__[1:] if each.__module__.startswith(_HERE))
        for name, member in vars(cls).items():
            function = getattr(member, "__func__", member)  # a static or class method wraps one
            marks = vars(function) if inspect.isfunction(function) else ()
            if name == "security" and inspect.isfunction(function):
                raise DeclarationError(cls, f"security is a function; write ({function.__name__},)")
            if hasattr(base, name) and any(mark.startswith("__gizmo") for mark in marks):
                reason = f"{name!r} is a member of {base.__name__}; rename the method"
                raise DeclarationError(member, reason)

    def endpoints(self) -> EndpointTable:
        """Return more endpoints as a table ``{path: {method: handler}}``, as in Gizmo."""
        return {}

    def publish(
        self,
        channel: str,
        value: object,
        *,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Publish ``value`` to ``channel`` and return when the broker has confirmed it.

        Models, dataclasses, dicts and lists are sent as JSON, bytes and text as they are, protobuf
        messages in their own encoding; None is a tombstone. Messages with the same ``key`` keep
        their order.

        With ``delay`` (seconds, a timedelta or a text such as ``"5m"``) or ``at`` (a datetime with
        its time zone) the broker delivers the message then or later, and in no order. Raises
        UsageError if the broker cannot do that, as Kafka cannot, or not for so long.

        Raises PubSubError if the broker refuses the message, TopicNotFound if it has no such topic,
        and UsageError if the daemon is not running or ``value`` cannot be encoded. The first
        message to a channel raises UnknownScheme or DriverNotInstalled if its URL has no driver,
        and StartError if the settings give its topic to another channel.
        """
        channels = self._running_channels()
        if delay is None and at is None:  # most calls: two arguments less to pass
            return channels.publish(channel, value, key=key, attributes=attributes)
        return channels.publish(channel, value, key=key, attributes=attributes, delay=delay, at=at)

    async def publish_many(
        self,
        channel: str,
        values: Iterable[Any],
        *,
        key: Callable[[Any], str | None] | str | None = None,
        attributes: Mapping[str, str] | None = None,
        delay: DurationLike | None = None,
        at: datetime | None = None,
    ) -> Sequence[Exception | None]:
        """Publish ``values`` to ``channel`` and return one result for each: None, or its error.

        ``key`` is the key of all values, or a function that returns the key of a value, as in
        ``sorted``. ``delay`` and ``at`` are those of ``publish``. Raises UsageError if the daemon
        is not running, and on the first message to a channel what ``publish`` raises; an item never
        raises.
        """
        channels = self._running_channels()
        return await channels.publish_many(
            channel, values, key=key, attributes=attributes, delay=delay, at=at
        )

    def _running_channels(self) -> Channels:
        if self._channels is None:
            name = type(self).__name__
            raise UsageError(f"{name} {self._not_running}: publish in lifespan or later")
        return self._channels

    @property
    def metrics(self) -> Metrics:
        """Return the server's metrics: add your own with ``registry=self.metrics.registry``.

        Raises UsageError before the server exists: create metrics in ``lifespan``.
        """
        if self._metrics is None:
            raise UsageError(f"{type(self).__name__} has no metrics yet: create them in lifespan")
        return self._metrics

    def _attach(self, channels: Channels, metrics: Metrics) -> None:
        """Connect the object to its server, which calls this once."""
        # A second server would replace the channels of the first, which still handles requests.
        if self._channels is not None:
            raise UsageError(f"this {type(self).__name__} already has a server; make another one")
        # Not by assignment: a mounted object may be a frozen dataclass.
        vars(self).update(_channels=channels, _metrics=metrics)
