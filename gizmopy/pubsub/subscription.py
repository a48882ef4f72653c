"""Declare what a service consumes: an async method, marked with ``@subscribe``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, fields, replace
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

Outcomes = Sequence[BaseException | None]
"""For each message of a batch, in its order: None where it is handled, else why it is not."""

BatchHandler = Callable[[Sequence[Message]], Coroutine[Any, Any, Outcomes]]
"""Decode and handle messages together, and return what became of each."""

MethodT = TypeVar("MethodT", bound=Callable[..., Coroutine[Any, Any, Any]])

_MARK = "__gizmo_subscriptions__"
_IN_FLIGHT = 100
_IN_FLIGHT_BYTES = 64 * 1024 * 1024


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
    max_in_flight_bytes: int = _IN_FLIGHT_BYTES
    batch_size: int = 0
    batch_wait: float = 0.0
    middleware: tuple[MessageMiddleware, ...] = ()
    critical: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription(Options):
    """One subscription of a running service: its options, and the handler, ready to be called."""

    handler: Handler
    """Handles one message; where there is a ``batch_handler``, as a batch of one."""
    batch_handler: BatchHandler | None = None
    payload: Any
    """The type that a body is decoded to; None where the handler takes only Messages."""
    name: str
    """The handler as a person knows it: ``Cats.on_cat``."""


def subscribe(
    channel: str,
    *,
    subscription: str = "",
    concurrency: int = 1,
    order: Order = "none",
    max_in_flight: int | None = None,
    max_in_flight_bytes: int = _IN_FLIGHT_BYTES,
    batch_size: int = 0,
    batch_wait: float = 0.0,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
    max_deliveries: int = 5,
    dead_letter: str = "",
    middleware: Sequence[MessageMiddleware] = (),
    critical: bool = False,
) -> Callable[[MethodT], MethodT]:
    """Mark an async method as the handler of what is published on ``channel``.

    The method takes the payload (any type that a codec exists for), the :class:`Message`, or both.
    Returning acks. Raising retries by ``retry``, then up to ``max_deliveries`` deliveries, then
    sends the message to the channel ``dead_letter``, if there is one; raising ``Retry`` or
    ``Reject`` steers that.

    ``subscription`` is the group that shares the messages; default: the service's name.
    ``concurrency`` handlings run at a time, of at most ``max_in_flight`` messages received and not
    settled (default: 100, or as many as the handlings can hold if that is more) that take at most
    ``max_in_flight_bytes`` (default: 64 MiB; one receive may exceed it): their bodies, keys and
    attributes, 1 KiB for each message, and 256 bytes for each attribute. ``order`` keeps handlings
    of one ``"key"`` (messages without a key are free) or ``"partition"`` one after the other.

    With ``batch_size`` the method takes lists, ``list[Cat]`` and ``list[Message]``, of up to that
    many messages that have come within ``batch_wait`` seconds of the first (default 0: those that
    are there). It returns None where all are handled, or for each None or an exception; raising is
    a failure of each. Where order is kept, a batch holds one message of each key or partition.

    ``middleware`` wraps the handler, outermost first, inside the service's own. A ``critical``
    subscription that does not work makes the daemon unready; so does any, where the service has no
    endpoints.

    Raises DeclarationError, with file and line, on an option that cannot be.
    """
    if callable(channel):
        reason = 'is decorated without a channel; write @subscribe("channel")'
        raise DeclarationError(channel, reason)
    at_once = concurrency * max(1, batch_size)
    options = Options(
        channel=channel,
        subscription=subscription,
        concurrency=concurrency,
        order=order,
        max_in_flight=max(_IN_FLIGHT, at_once) if max_in_flight is None else max_in_flight,
        max_in_flight_bytes=max_in_flight_bytes,
        batch_size=batch_size,
        batch_wait=batch_wait,
        retry=retry,
        max_deliveries=max_deliveries,
        dead_letter=dead_letter,
        middleware=tuple(middleware),
        critical=critical,
    )

    def mark(method: MethodT) -> MethodT:
        for problem in _problems(options):
            raise DeclarationError(method, problem)
        setattr(method, _MARK, (options, *getattr(method, _MARK, ())))
        return method

    return mark


def _problems(options: Options) -> Iterator[str]:
    """Yield what is wrong with the options, and the remedy."""
    at_once = options.concurrency * max(1, options.batch_size)
    if not options.channel:
        yield "@subscribe needs the name of a channel"
    if options.concurrency < 1:
        yield f"concurrency={options.concurrency} would handle nothing; use 1 or more"
    if options.order not in ("none", "key", "partition"):
        yield f"order={options.order!r} is not known; use 'none', 'key' or 'partition'"
    if options.batch_size < 0 or options.batch_wait < 0:
        yield "batch_size= and batch_wait= count from 0; leave them out to handle one at a time"
    if options.batch_wait and not options.batch_size:
        yield f"batch_wait={options.batch_wait} waits for a batch; give batch_size= too"
    if options.batch_size and options.middleware:
        yield "middleware= wraps the handling of one message; leave it out, or batch_size="
    if options.max_in_flight < at_once:
        yield (
            f"max_in_flight={options.max_in_flight} starves concurrency={options.concurrency} "
            f"with batch_size={options.batch_size}; use {at_once} or more"
        )
    if options.max_in_flight_bytes < 1:
        yield f"max_in_flight_bytes={options.max_in_flight_bytes} takes nothing; use 1 or more"
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
    outer: Sequence[MessageMiddleware] = getattr(service, "message_middleware", ())
    found = [
        _compile(options, method, default_subscription, outer)
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
    options: Options,
    method: Callable[..., Any],
    default_subscription: str,
    outer: Sequence[MessageMiddleware],
) -> Subscription:
    payload, message = _parameters(method, in_batches=options.batch_size > 0)
    batch_handler = None
    if options.batch_size:
        batch_handler = _batch_handler(method, payload, message)
        handler = _one_of(batch_handler)
    else:
        handler = _wrapped(_handler(method, payload, message), (*outer, *options.middleware))
    return Subscription(
        **{field.name: getattr(options, field.name) for field in fields(Options)}
        | {"subscription": options.subscription or default_subscription},
        handler=handler,
        batch_handler=batch_handler,
        payload=payload.annotation if payload else None,
        name=f"{_class_name(method)}.{method.__name__}",
    )


def _class_name(method: Callable[..., Any]) -> str:
    owner = getattr(method, "__self__", None)
    return type(owner).__name__ if owner is not None else method.__module__


def _parameters(
    method: Callable[..., Any], *, in_batches: bool
) -> tuple[Parameter | None, Parameter | None]:
    """Return the parameters that take the payload and the Message, each of one message."""
    payload = message = None
    for parameter in read_signature(method).parameters:
        if in_batches:
            parameter = replace(parameter, annotation=_item_type(method, parameter))
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


def _item_type(method: Callable[..., Any], parameter: Parameter) -> Any:
    """Return the type of the items of a list that takes a batch."""
    if get_origin(parameter.annotation) is not list:
        raise DeclarationError(
            method,
            f"{parameter.name!r} takes a batch; annotate it as list[...], or drop batch_size",
        )
    return get_args(parameter.annotation)[0]


def _wrapped(handler: Handler, middleware: Sequence[MessageMiddleware]) -> Handler:
    for wrap in reversed(middleware):
        handler = wrap(handler)
    return handler


def _handler(
    method: Callable[..., Any], payload: Parameter | None, message: Parameter | None
) -> Handler:
    """Return a function that decodes as the parameters say, and calls the method."""
    if payload is None:
        assert message is not None
        return _caller(method, message)
    decode = _decoder(method, payload)
    call = _caller(method, payload, *((message,) if message else ()))
    if message is None:
        return lambda received: call(decode(received))
    return lambda received: call(decode(received), received)


def _caller(method: Callable[..., Any], *parameters: Parameter) -> Callable[..., Any]:
    """Return the method, to be called with values of ``parameters`` in this order."""
    names = [parameter.name for parameter in parameters]
    declared = inspect.signature(method).parameters
    if [*declared] == names and all(p.kind is not p.KEYWORD_ONLY for p in declared.values()):
        return method
    return lambda *values: method(**dict(zip(names, values, strict=True)))


def _batch_handler(
    method: Callable[..., Any], payload: Parameter | None, message: Parameter | None
) -> BatchHandler:
    """Return a function that decodes messages, and calls the method with those that can be."""
    decode = _decoder(method, payload) if payload else None

    async def handle(messages: Sequence[Message]) -> Outcomes:
        outcomes: dict[Message, BaseException | None] = {}
        values: list[Any] = []
        for received in messages:
            try:
                if received.unreadable:
                    raise UndecodableMessage(received.unreadable)
                values.append(decode(received) if decode else None)
            except UndecodableMessage as error:
                outcomes[received] = error
        handled = [received for received in messages if received not in outcomes]
        arguments: dict[str, Any] = {}
        if payload:
            arguments[payload.name] = values
        if message:
            arguments[message.name] = list(handled)
        if handled:
            results = _outcomes(await method(**arguments), len(handled))
            outcomes.update(zip(handled, results, strict=True))
        return [outcomes[received] for received in messages]

    return handle


def _outcomes(returned: Any, count: int) -> Outcomes:
    """Return what a batch handler says of each of its messages. Raises UsageError on nonsense."""
    if returned is None:
        return [None] * count
    outcomes = list(returned) if isinstance(returned, Sequence) else []
    if len(outcomes) != count or not all(
        outcome is None or isinstance(outcome, BaseException) for outcome in outcomes
    ):
        what = f"a {type(returned).__name__} of {len(outcomes)}" if outcomes else repr(returned)
        raise UsageError(
            f"a batch handler returned {what} for {count} messages; return None, or for each "
            "message None or an exception"
        )
    return outcomes


def _one_of(handle: BatchHandler) -> Handler:
    """Return a handler of one message as a batch of one."""

    async def handler(message: Message) -> None:
        (error,) = await handle([message])
        if error is not None:
            raise error

    return handler


def _decoder(method: Callable[..., Any], payload: Parameter) -> Callable[[Message], Any]:
    """Return a function that decodes a message's body to the payload's type."""
    type_, optional = _without_none(payload.annotation)
    try:
        decode = codec_for(type_).decode
    except UsageError as error:
        raise DeclarationError(method, f"parameter {payload.name!r}: {error}") from error

    as_it_is = type_ is bytes

    def decode_message(message: Message) -> Any:
        body = message.body
        if body is not None:
            return body if as_it_is else decode(body)
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
