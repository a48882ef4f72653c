"""Declare what a service consumes: an async method, marked with ``@subscribe``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from gizmopy.declaration import Parameter, read_signature
from gizmopy.errors import DeclarationError, UndecodableMessage, UsageError
from gizmopy.pubsub.codecs import codec_for
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.retry import RetryPolicy

Order = Literal["none", "key", "partition"]
Handler = Callable[[Message], Coroutine[Any, Any, None]]
"""Decode a message at once (this may raise UndecodableMessage), and return the handling of it."""

MessageMiddleware = Callable[[Handler], Handler]
"""Wrap a handler in another: what it raises, and whether it returns, is the message's outcome."""

MethodT = TypeVar("MethodT", bound=Callable[..., Coroutine[Any, Any, None]])

_MARK = "__gizmo_subscriptions__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``@subscribe`` was given; see there."""

    channel: str
    subscription: str
    concurrency: int
    order: Order
    max_in_flight: int
    retry: RetryPolicy
    max_deliveries: int
    dead_letter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription(Options):
    """One subscription of a running service: its options, and the handler, ready to be called."""

    handler: Handler
    payload: Any
    """The type that the body is decoded to; None where the handler takes only the Message."""
    name: str
    """The handler as a person knows it: ``Cats.on_cat``."""


def subscribe(
    channel: str,
    *,
    subscription: str = "",
    concurrency: int = 1,
    order: Order = "none",
    max_in_flight: int | None = None,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
    max_deliveries: int = 5,
    dead_letter: str = "",
) -> Callable[[MethodT], MethodT]:
    """Mark an async method as the handler of what is published on ``channel``.

    The method takes the payload (any type that a codec exists for), the :class:`Message`, or both.
    Returning acks. Raising retries by ``retry``, then up to ``max_deliveries`` deliveries, then
    sends the message to the channel ``dead_letter``, if there is one; raising ``Retry`` or
    ``Reject`` steers that.

    ``subscription`` is the group that shares the messages; default: the service's name.
    ``concurrency`` handlings run at a time, of at most ``max_in_flight`` messages received and not
    settled (default: 100, or ``concurrency`` if that is more). ``order`` keeps handlings of one
    ``"key"`` (messages without a key are free) or ``"partition"`` one after the other.

    Raises DeclarationError, with file and line, on an option that cannot be.
    """
    if callable(channel):
        reason = 'is decorated without a channel; write @subscribe("channel")'
        raise DeclarationError(channel, reason)
    options = Options(
        channel=channel,
        subscription=subscription,
        concurrency=concurrency,
        order=order,
        max_in_flight=max(100, concurrency) if max_in_flight is None else max_in_flight,
        retry=retry,
        max_deliveries=max_deliveries,
        dead_letter=dead_letter,
    )

    def mark(method: MethodT) -> MethodT:
        for problem in _problems(options):
            raise DeclarationError(method, problem)
        setattr(method, _MARK, (options, *getattr(method, _MARK, ())))
        return method

    return mark


def _problems(options: Options) -> Iterator[str]:
    """Yield what is wrong with the options, and the remedy."""
    if not options.channel:
        yield "@subscribe needs the name of a channel"
    if options.concurrency < 1:
        yield f"concurrency={options.concurrency} would handle nothing; use 1 or more"
    if options.order not in ("none", "key", "partition"):
        yield f"order={options.order!r} is not known; use 'none', 'key' or 'partition'"
    if options.max_in_flight < options.concurrency:
        yield (
            f"max_in_flight={options.max_in_flight} starves concurrency={options.concurrency}; "
            "use at least as many"
        )
    if options.max_deliveries < 1:
        yield f"max_deliveries={options.max_deliveries} would deliver nothing; use 1 or more"
    if options.dead_letter and options.dead_letter == options.channel:
        yield f"dead_letter={options.dead_letter!r} is the channel itself: it would never end"


def collect_subscriptions(service: object, default_subscription: str) -> list[Subscription]:
    """Return the subscriptions that ``service`` declares, in the order of its source.

    An override without ``@subscribe`` keeps its base's subscriptions; one with it replaces them.
    Raises DeclarationError on a signature that cannot be served, and on two handlers of one
    channel within one subscription.
    """
    found = [
        _compile(options, method, default_subscription)
        for method, marks in _marked_methods(service)
        for options in marks
    ]
    names: dict[tuple[str, str], Subscription] = {}
    for subscription in found:
        first = names.setdefault((subscription.channel, subscription.subscription), subscription)
        if first is not subscription:
            raise DeclarationError(
                _method_of(service, subscription),
                f"{first.name} handles {subscription.channel!r} in the subscription "
                f"{subscription.subscription!r} already; give one of them another subscription=",
            )
    return found


def _method_of(service: object, subscription: Subscription) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(service, subscription.name.rpartition(".")[2])
    return method


def _marked_methods(
    service: object,
) -> Iterator[tuple[Callable[..., Any], tuple[Options, ...]]]:
    """Yield each method that is marked in its class or a base, with the nearest marks."""
    classes = type(service).__mro__
    names = {name: None for cls in reversed(classes) for name in vars(cls)}
    for name in names:
        definitions = [vars(cls)[name] for cls in classes if name in vars(cls)]
        marks = next((m for d in definitions if (m := getattr(d, _MARK, None))), None)
        if marks and callable(method := getattr(service, name)):
            yield method, marks


def _compile(
    options: Options, method: Callable[..., Any], default_subscription: str
) -> Subscription:
    payload, message = _parameters(method)
    return Subscription(
        channel=options.channel,
        subscription=options.subscription or default_subscription,
        concurrency=options.concurrency,
        order=options.order,
        max_in_flight=options.max_in_flight,
        retry=options.retry,
        max_deliveries=options.max_deliveries,
        dead_letter=options.dead_letter,
        handler=_handler(method, payload, message),
        payload=payload.annotation if payload else None,
        name=f"{_class_name(method)}.{method.__name__}",
    )


def _class_name(method: Callable[..., Any]) -> str:
    owner = getattr(method, "__self__", None)
    return type(owner).__name__ if owner is not None else method.__module__


def _parameters(method: Callable[..., Any]) -> tuple[Parameter | None, Parameter | None]:
    """Return the parameters that take the payload and the Message."""
    payload = message = None
    for parameter in read_signature(method).parameters:
        if parameter.annotation is Message:
            if message is not None:
                raise DeclarationError(method, "takes the Message twice; take it once")
            message = parameter
        elif payload is not None:
            reason = f"{payload.name!r} and {parameter.name!r} both take the payload; keep one"
            raise DeclarationError(method, reason)
        else:
            payload = parameter
    if payload is None and message is None:
        raise DeclarationError(method, "takes nothing; declare a payload, a Message, or both")
    return payload, message


def _handler(
    method: Callable[..., Any], payload: Parameter | None, message: Parameter | None
) -> Handler:
    """Return a function that decodes as the parameters say, and calls the method."""
    message_name = message.name if message else ""
    if payload is None:
        return lambda received: method(**{message_name: received})
    decode, name = _decoder(method, payload), payload.name
    if message is None:
        return lambda received: method(**{name: decode(received)})
    return lambda received: method(**{name: decode(received), message_name: received})


def _decoder(method: Callable[..., Any], payload: Parameter) -> Callable[[Message], Any]:
    """Return a function that decodes a message's body to the payload's type."""
    type_, optional = _without_none(payload.annotation)
    try:
        decode = codec_for(type_).decode
    except UsageError as error:
        raise DeclarationError(method, f"parameter {payload.name!r}: {error}") from error

    def decode_message(message: Message) -> Any:
        if message.body is not None:
            return decode(message.body)
        if optional:
            return None
        raise UndecodableMessage(f"a tombstone (no body), and {payload.name!r} does not take None")

    return decode_message


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Return a type without the None in it, and whether it takes None."""
    if get_origin(annotation) not in (Union, UnionType) or NoneType not in get_args(annotation):
        return annotation, annotation is None or annotation is NoneType
    rest = tuple(arg for arg in get_args(annotation) if arg is not NoneType)
    return Union[rest], True  # noqa: UP007 - made from a tuple
