"""Turn a service's method into a handler: a function from a Message to the call of the method.

All that depends only on the signature happens here, once, at start: which parameter takes the
payload and which the Message, and which codec decodes the body. A handler then does nothing but
decode and call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from gizmopy.declaration import Parameter, read_signature
from gizmopy.errors import DeclarationError, UndecodableMessage, UsageError
from gizmopy.pubsub.codecs import JSONCodec, codec_for, without_wrapping
from gizmopy.pubsub.event_binding import is_structured
from gizmopy.pubsub.message import CONTENT_TYPE, Message, content_type_only
from gizmopy.untrusted.error_text import describe_error

Handler = Callable[[Message], Coroutine[Any, Any, None]]
"""Decode a message at once (this may raise UndecodableMessage) and return the coroutine that
handles it. The message is acked if the coroutine returns, and has failed if it raises."""

MessageMiddleware = Callable[[Handler], Handler]
"""Wrap a handler in another one, which decides the outcome of the message: by returning or raising.
"""

BatchResults = Sequence[BaseException | None]
"""The result for each message of a batch, in its order: None if it was handled, else the error."""

BatchHandler = Callable[[Sequence[Message]], Coroutine[Any, Any, BatchResults]]
"""Decode and handle messages together, and return the result for each."""


class CompiledMethod(NamedTuple):
    """A service's method as the engine calls it."""

    handler: Handler
    """Handles one message."""
    batch_handler: BatchHandler | None
    """Handles several messages at once; None if the method takes one at a time."""
    payload: Any
    """The type that bodies are decoded to; None if the method takes only Messages."""


def compile_method(
    method: Callable[..., Any], middleware: Sequence[MessageMiddleware], owner: object = None
) -> CompiledMethod:
    """Compile a method that takes one message; ``middleware`` wraps it, the outermost first.

    ``owner`` is the object that has the method; default: the one that it is bound to. Raises
    DeclarationError if the signature cannot be served.
    """
    takes = _Parameters.of(method, owner)
    handler = _handler(method, takes)
    for wrap in reversed(middleware):
        handler = wrap(handler)
        if not callable(handler):
            reason = f"returned {handler!r}, and not a function that takes a Message; return one"
            raise DeclarationError(wrap, reason)
    return CompiledMethod(handler, None, takes.payload_type)


def compile_batch_method(method: Callable[..., Any], owner: object = None) -> CompiledMethod:
    """Compile a method that takes lists. Raises DeclarationError if it cannot be served."""
    takes = _Parameters.of(method, owner, in_batches=True)
    batch_handler = _batch_handler(method, takes)
    return CompiledMethod(_handler_of_one(batch_handler), batch_handler, takes.payload_type)


# The parameters that a method declares.


class _Parameters(NamedTuple):
    """The parameters that take the payload and the Message; at least one of them is there."""

    payload: Parameter | None
    message: Parameter | None

    @property
    def payload_type(self) -> Any:
        return self.payload.annotation if self.payload else None

    @classmethod
    def of(
        cls, method: Callable[..., Any], owner: object, *, in_batches: bool = False
    ) -> _Parameters:
        payload = message = None
        for parameter in read_signature(method, owner).parameters:
            if in_batches:
                parameter = replace(parameter, annotation=_item_type(method, parameter))
            if without_wrapping(parameter.annotation) is Message:
                if message is not None:
                    raise DeclarationError(method, "takes the Message twice; take it once")
                message = parameter
            elif payload is not None:
                reason = f"{payload.name!r} and {parameter.name!r} both take the payload; keep one"
                raise DeclarationError(method, reason)
            else:
                payload = parameter
        if payload is None and message is None:
            reason = "has no parameters; declare one for the payload, for the Message, or both"
            raise DeclarationError(method, reason)
        return cls(payload, message)


def _item_type(method: Callable[..., Any], parameter: Parameter) -> Any:
    """Return the type of the items of a list parameter."""
    annotation = without_wrapping(parameter.annotation)
    if get_origin(annotation) is not list:
        raise DeclarationError(
            method,
            f"{parameter.name!r} takes a batch; annotate it as list[...], or remove batch_size",
        )
    return get_args(annotation)[0]


# One message at a time.


def _handler(method: Callable[..., Any], takes: _Parameters) -> Handler:
    """Return a function that decodes a message as declared and calls the method."""
    payload, message = takes
    if payload is None:
        assert message is not None
        return _positional(method, message)
    decode = _decoder(method, payload)
    call = _positional(method, payload, *((message,) if message else ()))
    if message is None:
        return lambda received: call(decode(received))
    return lambda received: call(decode(received), received)


def _positional(method: Callable[..., Any], *parameters: Parameter) -> Callable[..., Any]:
    """Return a function that takes the values of ``parameters`` in this order.

    It is the method itself if that declares them in the same order: a wrapper would cost a call
    for each message.
    """
    names = [parameter.name for parameter in parameters]
    declared = inspect.signature(method).parameters
    if [*declared] == names and all(p.kind is not p.KEYWORD_ONLY for p in declared.values()):
        return method
    return lambda *values: method(**dict(zip(names, values, strict=True)))


def _decoder(method: Callable[..., Any], payload: Parameter) -> Callable[[Message], Any]:
    """Return a function that decodes a message's body to the type of the payload."""
    type_, optional = without_none(payload.annotation)
    decode_none: Callable[[], Any] | None = _none if optional else None
    try:
        codec = codec_for(type_)
        if isinstance(codec, JSONCodec):
            # The whole annotation: JSON has a null, and a validator may be outside of the union.
            codec = codec_for(payload.annotation)
            assert isinstance(codec, JSONCodec)
            # The type is asked, because None hides in Any, in aliases and in root models.
            decode_none = codec.decode_none if codec.takes_none() else None
    except UsageError as error:
        raise DeclarationError(method, f"parameter {payload.name!r}: {error}") from error

    decode, takes_bytes = codec.decode, type_ is bytes
    usual = content_type_only(codec.content_type)

    def decode_message(message: Message) -> Any:
        body, attributes = message.body, message._changed_attributes
        if attributes is None:
            attributes = message._attributes  # not `message.attributes`, which makes a copy
        try:
            # Most messages of memory:// share the attributes of their codec: no look-up for those.
            if attributes is not usual:
                content_type = attributes.get(CONTENT_TYPE)
                if content_type is not None and is_structured(content_type):
                    body = _event_data(body, content_type, takes_bytes)
            if body is not None:
                return body if takes_bytes else decode(body)
            if decode_none is not None:
                return decode_none()
        except (UndecodableMessage, MemoryError):
            raise  # a lack of memory may pass
        except Exception as error:  # noqa: BLE001 - a validator or a codec may raise anything
            # The same body raises the same error again, so a retry is of no use; and in a batch it
            # must not fail the others.
            problem = describe_error(error)
        else:
            problem = (
                f"the message is a tombstone (it has no body), and {payload.name!r} does not take "
                "None"
            )
        raise UndecodableMessage(problem)  # outside of the except clause: see JSONCodec.decode

    return decode_message


def _event_data(body: bytes | None, content_type: str, takes_bytes: bool) -> bytes | None:
    """Return the data of a CloudEvent in structured mode: the payload, as in binary mode.

    Of a format that is not JSON, a handler that takes bytes gets the whole event.
    """
    # Imported here, because few programs use CloudEvents.
    from gizmopy.pubsub.cloudevents import structured_data
    from gizmopy.pubsub.event_json import is_known_format

    if takes_bytes and not is_known_format(content_type):
        return body
    return structured_data(body, content_type)


def _none() -> None:
    """Return None, for a message without a body."""


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Return a type without the None in it, and whether it includes None."""
    wrapped, annotation = annotation, without_wrapping(annotation)
    if get_origin(annotation) not in (Union, UnionType) or NoneType not in get_args(annotation):
        return wrapped, annotation is None or annotation is NoneType
    rest = tuple(arg for arg in get_args(annotation) if arg is not NoneType)
    return Union[rest], True  # noqa: UP007 - made from a tuple


# Batches.


def _batch_handler(method: Callable[..., Any], takes: _Parameters) -> BatchHandler:
    """Return a function that decodes messages and calls the method with those it can decode."""
    payload, message = takes
    decode = _decoder(method, payload) if payload else None

    async def handle(messages: Sequence[Message]) -> BatchResults:
        results: dict[Message, BaseException | None] = {}
        values: list[Any] = []
        for received in messages:
            try:
                if received.unreadable:
                    raise UndecodableMessage(received.unreadable)
                values.append(decode(received) if decode else None)
            except UndecodableMessage as error:
                results[received] = error
        # A body that cannot be decoded fails alone: the rest of its batch is handled.
        decoded = [received for received in messages if received not in results]
        arguments: dict[str, Any] = {}
        if payload:
            arguments[payload.name] = values
        if message:
            arguments[message.name] = list(decoded)
        if decoded:
            returned = _checked_results(await method(**arguments), len(decoded))
            results.update(zip(decoded, returned, strict=True))
        return [results[received] for received in messages]

    return handle


def _checked_results(returned: Any, count: int) -> BatchResults:
    """Return the result for each of ``count`` messages. Raises UsageError on any other value."""
    if returned is None:
        return [None] * count
    results = list(returned) if isinstance(returned, Sequence) else []
    if len(results) != count or not all(
        result is None or isinstance(result, BaseException) for result in results
    ):
        what = f"a {type(returned).__name__} of {len(results)}" if results else repr(returned)
        raise UsageError(
            f"a batch handler returned {what} for {count} messages; return None if all were "
            "handled, or a list with None or an exception for each message"
        )
    return results


def _handler_of_one(handle: BatchHandler) -> Handler:
    """Return a handler of one message, which is a batch of one."""

    async def handler(message: Message) -> None:
        (error,) = await handle([message])
        if error is not None:
            raise error

    return handler
