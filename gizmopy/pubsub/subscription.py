"""Declare the messages that a service consumes: async methods, marked with ``@subscribe``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, TypeVar

from gizmopy.declaration import add_mark, declared_methods, reports_wrong_calls
from gizmopy.errors import DeclarationError, source_of
from gizmopy.pubsub.handlers import (
    BatchHandler,
    Handler,
    MessageMiddleware,
    compile_batch_method,
    compile_method,
)
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.untrusted.durations import DurationLike, as_seconds

Order = Literal["none", "key", "partition"]
MethodT = TypeVar("MethodT", bound=Callable[..., Coroutine[Any, Any, Any]])

_MARK = "__gizmo_subscriptions__"
_MAX_IN_FLIGHT = 100
_MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024
_MAX_WAITING = 10_000
_MAX_WAITING_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionOptions:
    """The arguments of ``@subscribe``; see there."""

    channel: str
    subscription: str
    concurrency: int
    order: Order
    max_in_flight: int
    retry: RetryPolicy
    max_deliveries: int
    dead_letter: str
    max_in_flight_bytes: int = _MAX_IN_FLIGHT_BYTES
    max_waiting: int = _MAX_WAITING
    max_waiting_bytes: int = _MAX_WAITING_BYTES
    batch_size: int = 0
    batch_wait: float = 0.0
    middleware: tuple[MessageMiddleware, ...] = ()
    critical: bool = False
    start_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription(SubscriptionOptions):
    """One subscription of a running service: its options, and the handler, ready to be called."""

    handler: Handler
    """Handles one message; if there is a ``batch_handler``, as a batch of one."""
    batch_handler: BatchHandler | None = None
    payload: Any
    """The type that bodies are decoded to; None if the handler takes only Messages."""
    has_default_name: bool = False
    """Whether ``subscription`` is the name of the service, because ``@subscribe`` gives none."""
    name: str
    """The handler's name in logs and errors: ``Cats.on_cat``."""
    doc: str = ""
    """The docstring of the handler."""


@reports_wrong_calls('@subscribe("channel")')
def subscribe(
    channel: str,
    *,
    subscription: str = "",
    concurrency: int = 1,
    order: Order = "none",
    max_in_flight: int | None = None,
    max_in_flight_bytes: int = _MAX_IN_FLIGHT_BYTES,
    max_waiting: int = _MAX_WAITING,
    max_waiting_bytes: int = _MAX_WAITING_BYTES,
    batch_size: int = 0,
    batch_wait: DurationLike = 0.0,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
    max_deliveries: int = 5,
    dead_letter: str = "",
    middleware: Sequence[MessageMiddleware] = (),
    critical: bool = False,
    start_paused: bool = False,
) -> Callable[[MethodT], MethodT]:
    """Mark an async method as the handler of the messages of ``channel``.

    The method takes the payload (any type that has a codec), the :class:`Message`, or both.
    If it returns, the message is acked. If it raises, the message is retried by ``retry``, then
    redelivered until it was delivered ``max_deliveries`` times, then published to the channel
    ``dead_letter``, if one is given. Raise ``Retry`` or ``Reject`` to control this.

    ``subscription`` is the group of daemons that share the messages; default: the service's name.

    At most ``concurrency`` handlers run at a time. At most ``max_in_flight`` messages are received
    and not yet settled; default: 100, or as many as the handlers can hold if that is more. They
    take at most ``max_in_flight_bytes`` (default: 64 MiB; one receive may exceed it). A message
    takes the bytes of its body, key and attributes, 1 KiB, and 256 bytes for each attribute.

    Messages that wait for their turn, their retry or their dead letter do not count for these
    bounds. ``max_waiting`` (default: 10,000) and ``max_waiting_bytes`` (default: 16 MiB) bound them
    in each partition, or in all if the broker has no partitions. At a bound no more of that
    partition is received.

    ``order`` handles the messages of one ``"key"`` or one ``"partition"`` one after the other.
    Messages without a key are in no order.

    With ``batch_size`` the method takes lists, ``list[Cat]`` and ``list[Message]``, of at most that
    many messages that arrived within ``batch_wait`` of the first, a number of seconds, a text such
    as ``500ms``, or a timedelta; default 0: those that
    have arrived already. It returns None if all were handled, or a list with None or an exception
    for each. If it raises, each message has failed. If ``order`` is kept, a batch holds one message
    of each key or partition.

    ``middleware`` wraps the handler, the outermost first, inside the service's own middleware. If a
    ``critical`` subscription does not work, the daemon is not ready; if the service has no
    endpoints, every subscription is critical.

    With ``start_paused`` the daemon connects and handles no message until ``/debug/subscriptions``
    resumes the subscription. A paused subscription is not unhealthy.

    Raises DeclarationError, with file and line, if an option is invalid.
    """
    if callable(channel):
        reason = 'is decorated without a channel; write @subscribe("channel")'
        raise DeclarationError(channel, reason)
    wrong = _wrong_types(locals())
    if wrong is not None:
        return _refusing(wrong)
    try:
        batch_seconds = as_seconds(batch_wait)
    except ValueError as error:
        return _refusing(f"batch_wait: {error}")
    at_once = concurrency * max(1, batch_size)
    options = SubscriptionOptions(
        channel=channel,
        subscription=subscription,
        concurrency=concurrency,
        order=order,
        max_in_flight=max(_MAX_IN_FLIGHT, at_once) if max_in_flight is None else max_in_flight,
        max_in_flight_bytes=max_in_flight_bytes,
        max_waiting=max_waiting,
        max_waiting_bytes=max_waiting_bytes,
        batch_size=batch_size,
        batch_wait=batch_seconds,
        retry=retry,
        max_deliveries=max_deliveries,
        dead_letter=dead_letter,
        middleware=tuple(middleware),
        critical=critical,
        start_paused=start_paused,
    )

    def mark(method: MethodT) -> MethodT:
        for problem in _problems(options):
            raise DeclarationError(method, problem)
        add_mark(method, _MARK, options)
        return method

    return mark


_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "channel": (str, "the name of a channel"),
    "subscription": (str, "a name"),
    "concurrency": (int, "a whole number"),
    "max_in_flight": ((int, NoneType), "a whole number"),
    "max_in_flight_bytes": (int, "a whole number of bytes"),
    "max_waiting": (int, "a whole number"),
    "max_waiting_bytes": (int, "a whole number of bytes"),
    "batch_size": (int, "a whole number"),
    "retry": (RetryPolicy, "a RetryPolicy, such as RetryPolicy(attempts=5)"),
    "max_deliveries": (int, "a whole number"),
    "dead_letter": (str, "the name of a channel"),
    "start_paused": (bool, "True or False"),
    "middleware": ((list, tuple), "a list of functions"),
}


def _wrong_types(given: Mapping[str, object]) -> str | None:
    """Return the problem of the first option that has a value of a wrong type."""
    for name, (kind, expected) in _TYPES.items():
        if not isinstance(given[name], kind):
            return f"{name}={given[name]!r} is not {expected}"
    return None


def _refusing(problem: str) -> Callable[[MethodT], MethodT]:
    def mark(method: MethodT) -> MethodT:
        raise DeclarationError(method, problem)

    return mark


def _problems(options: SubscriptionOptions) -> Iterator[str]:
    """Yield the problems of the options, each with its remedy."""
    at_once = options.concurrency * max(1, options.batch_size)
    if not options.channel:
        yield "@subscribe needs the name of a channel"
    if options.concurrency < 1:
        yield f"concurrency={options.concurrency} would run no handler; use 1 or more"
    if options.order not in ("none", "key", "partition"):
        yield f"order={options.order!r} does not exist; use 'none', 'key' or 'partition'"
    if options.batch_size < 0 or options.batch_wait < 0:
        yield (
            f"batch_size={options.batch_size}, batch_wait={options.batch_wait:g}: neither may be "
            "negative; leave both out to handle one message at a time"
        )
    if options.batch_wait and not options.batch_size:
        yield f"batch_wait={options.batch_wait:g} has no effect without batch_size=; add it"
    if options.batch_size and options.middleware:
        yield (
            "middleware= wraps handlers of one message, and batch_size= makes this one a batch "
            "handler; remove one of them"
        )
    if options.max_in_flight < at_once:
        yield (
            f"max_in_flight={options.max_in_flight} is too small for "
            f"concurrency={options.concurrency} with batch_size={options.batch_size}; "
            f"use {at_once} or more"
        )
    if options.max_in_flight_bytes < 1:
        yield (
            f"max_in_flight_bytes={options.max_in_flight_bytes} would receive nothing; "
            "use 1 or more"
        )
    if options.max_waiting < 1 or options.max_waiting_bytes < 1:
        yield (
            f"max_waiting={options.max_waiting}, max_waiting_bytes={options.max_waiting_bytes}: "
            "a failed message could not wait for its retry; use 1 or more for each"
        )
    if options.max_deliveries < 1:
        yield f"max_deliveries={options.max_deliveries} is not possible; use 1 or more"
    if options.dead_letter and options.dead_letter == options.channel:
        yield (
            f"dead_letter={options.dead_letter!r} is the channel itself, so a failing message "
            "would return forever; use another channel"
        )


def collect_subscriptions(
    service: object, default_subscription: str, mounts: Iterable[object] = ()
) -> list[Subscription]:
    """Return the subscriptions of ``service``, then those of each of ``mounts``, as in the source.

    The ``message_middleware`` of the service wraps that of a mounted object. An override without
    ``@subscribe`` keeps the subscriptions of its base; one with ``@subscribe`` replaces them.
    Raises DeclarationError if a signature cannot be served, or if two handlers of one channel have
    the same subscription.
    """
    outer = _middleware_of(service)
    declared = [(service, outer), *((each, (*outer, *_middleware_of(each))) for each in mounts)]
    methods: dict[tuple[str, str], Callable[..., Any]] = {}
    found = []
    for owner, middleware in declared:
        for name, method, marks in declared_methods(owner, _MARK):
            for options in marks:
                has_default_name = not options.subscription
                options = replace(
                    options, subscription=options.subscription or default_subscription
                )
                key = options.channel, options.subscription
                if key in methods:
                    raise DeclarationError(method, _already_handled(options, methods[key]))
                methods[key] = method
                name_in_logs = f"{type(owner).__name__}.{name}"
                compiled = _compile(options, method, owner, middleware, name_in_logs)
                found.append(replace(compiled, has_default_name=has_default_name))
    return found


def _middleware_of(owner: object) -> tuple[MessageMiddleware, ...]:
    return tuple(getattr(owner, "message_middleware", ()))


def _already_handled(options: SubscriptionOptions, other: Callable[..., Any]) -> str:
    return (
        f"{source_of(other)} already handles {options.channel!r} in the subscription "
        f"{options.subscription!r}, so each would receive only some of the messages; "
        "give one of them another subscription="
    )


def _compile(
    options: SubscriptionOptions,
    method: Callable[..., Any],
    owner: object,
    middleware: Sequence[MessageMiddleware],
    name: str,
) -> Subscription:
    if options.batch_size:
        compiled = compile_batch_method(method, owner)
    else:
        compiled = compile_method(method, (*middleware, *options.middleware), owner)
    declared = {field.name: getattr(options, field.name) for field in fields(SubscriptionOptions)}
    doc = inspect.getdoc(method) or ""
    return Subscription(**declared, **compiled._asdict(), name=name, doc=doc)
