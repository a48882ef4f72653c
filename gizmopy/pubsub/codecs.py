"""Encode values as bodies, and decode them: JSON with pydantic, protobuf, text, and bytes.

The codec of a type is chosen once. A protobuf class is recognized by its two methods, so that the
library need not be imported.

A body that cannot be decoded raises UndecodableMessage. Its text may get into a log, so it names
the invalid fields and quotes no value of the body. A field's name may contain a dict key that the
sender chose, and a validator may quote a value: both are escaped and cut.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, NewType, Protocol, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.untrusted.early_stop import json_validator
from gizmopy.untrusted.error_text import text_of, too_many
from gizmopy.untrusted.input_errors import details_of, field_of, message_of
from gizmopy.untrusted.text import cut


class Codec(Protocol):
    """Encode and decode values of one type."""

    content_type: str

    def encode(self, value: Any) -> bytes:
        """Return the body for ``value``. Raises UsageError if it cannot be encoded."""

    def decode(self, body: bytes) -> Any:
        """Return the value in ``body``. Raises UndecodableMessage if it is invalid."""


class BytesCodec:
    """Pass bytes through. ``type_`` is bytes, or a type that is made of bytes."""

    content_type = "application/octet-stream"

    def __init__(self, type_: Any = bytes) -> None:
        self._read = _reader(type_, bytes)

    def encode(self, value: bytes | bytearray | memoryview) -> bytes:
        """Return ``value`` as bytes."""
        return bytes(value)

    def decode(self, body: bytes) -> Any:
        """Return ``body``. Raises UndecodableMessage if ``type_`` rejects it."""
        return body if self._read is None else self._read(body)


class TextCodec:
    """Encode text as UTF-8. ``type_`` is str, or a type that is made of str."""

    content_type = "text/plain; charset=utf-8"

    def __init__(self, type_: Any = str) -> None:
        self._read = _reader(type_, str)

    def encode(self, value: str) -> bytes:
        """Return ``value`` in UTF-8. Raises UsageError on lone surrogates."""
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"text cannot be published: {error.reason}") from None

    def decode(self, body: bytes) -> Any:
        """Return ``body`` as text. Raises UndecodableMessage if it is not UTF-8, or rejected."""
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise UndecodableMessage(f"not UTF-8 at byte {error.start}") from None
        return text if self._read is None else self._read(text)


class JSONCodec:
    """Encode values of ``type_`` as JSON, and validate on decoding: any type of pydantic."""

    content_type = "application/json"

    def __init__(self, type_: Any) -> None:
        self._adapter = _adapter(type_)
        self._validate = json_validator(self._adapter, self._adapter.validate_json)

    def encode(self, value: Any) -> bytes:
        """Return ``value`` as JSON. Raises UsageError if part of it cannot be JSON."""
        try:
            return self._adapter.dump_json(value, by_alias=True)
        except PydanticSerializationError as error:
            name = type(value).__name__
            raise UsageError(f"{name} cannot be published as JSON: {text_of(error)}") from error

    def takes_none(self) -> bool:
        """Return whether None is a value of the type."""
        try:
            self._adapter.validate_python(None)
        except Exception:  # noqa: BLE001 - a validator of the user may raise anything
            return False
        return True

    def decode_none(self) -> Any:
        """Return the value for a message without a body: None, or a model that holds it."""
        return self._adapter.validate_python(None)

    def decode(self, body: bytes) -> Any:
        """Return the validated value. Raises UndecodableMessage with the invalid fields."""
        try:
            return self._validate(body)
        except ValidationError as error:
            problems = _problems(error)
        # Raised outside of the except clause, so that the error of pydantic is not its context.
        # That one quotes the body, and had 124 MiB for a body of 1 MB.
        raise UndecodableMessage(problems)


class ProtobufCodec:
    """Encode protobuf messages of the class ``type_`` in their binary form."""

    content_type = "application/x-protobuf"

    def __init__(self, type_: Any) -> None:
        self._type = type_

    def encode(self, value: Any) -> bytes:
        """Return ``value`` serialized. Raises UsageError if a required field is missing."""
        try:
            body: bytes = value.SerializeToString()
        except Exception as error:  # protobuf's EncodeError, which is not imported
            reason = f"{self._type.__name__} cannot be published: {text_of(error)}"
            raise UsageError(reason) from error
        return body

    def decode(self, body: bytes) -> Any:
        """Return the message in ``body``. Raises UndecodableMessage if it is invalid."""
        try:
            return self._type.FromString(body)
        except Exception:  # noqa: BLE001 - protobuf's DecodeError, which is not imported
            raise UndecodableMessage(f"not a serialized {self._type.__name__}") from None


def _adapter(type_: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a type. Raises UsageError if pydantic has none."""
    try:
        return TypeAdapter(type_)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        name, reason = getattr(type_, "__name__", str(type_)), str(error).splitlines()[0]
        raise UsageError(
            f"{name} has no codec; use a pydantic model, a dataclass, a dict, a list, str, "
            f"bytes or a protobuf message ({reason})"
        ) from error


def _reader(type_: Any, plain: type) -> Callable[[Any], Any] | None:
    """Return a function that makes a ``type_`` of a ``plain`` value; None if they are the same."""
    if type_ is plain:
        return None
    if isinstance(type_, type):
        return type_
    adapter = _adapter(type_)

    def read(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            problems = _problems(error)
        raise UndecodableMessage(problems)  # outside of the except clause: see JSONCodec.decode

    return read


def _problems(error: ValidationError) -> str:
    """Return each invalid field and the reason, without the input; the number if too many."""
    if summary := too_many(error):
        return summary
    problems = details_of(error)
    return cut("; ".join(f"{field_of(p['loc']) or 'body'}: {message_of(p)}" for p in problems))


@lru_cache(maxsize=1024)
def codec_for(type_: Any) -> Codec:
    """Return the codec for values of ``type_``. Raises UsageError if there is none."""
    kind = without_wrapping(type_)
    if not isinstance(kind, type) or issubclass(kind, Enum):  # an enum may be a str too
        return JSONCodec(type_)
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return BytesCodec(type_)
    if issubclass(kind, str):
        return TextCodec(type_)
    if hasattr(kind, "FromString") and hasattr(kind, "SerializeToString"):
        return ProtobufCodec(kind)
    return JSONCodec(type_)


def without_wrapping(type_: Any) -> Any:
    """Return the type inside Annotated, NewType and type aliases."""
    while True:
        if get_origin(type_) is Annotated:
            type_ = get_args(type_)[0]
        elif isinstance(type_, NewType):
            type_ = type_.__supertype__
        elif type(type_).__name__ == "TypeAliasType":  # typing has it since Python 3.12
            type_ = type_.__value__
        else:
            return type_


Encode = Callable[[Any], tuple[bytes | None, str]]
"""Return the body and the content type for a value. Raises UsageError."""


def encode(value: Any) -> tuple[bytes | None, str]:
    """Return the body and the content type for ``value``; None is a tombstone and has neither."""
    if value is None:
        return None, ""
    type_: Any = type(value)
    codec = codec_for(type_)
    return codec.encode(value), codec.content_type


def encoder_for(type_: Any) -> Encode:
    """Return a function that encodes values of ``type_``, and refuses any other value.

    A value is validated, and only the fields that ``type_`` declares are encoded: a subclass cannot
    leak fields of its own. None is a tombstone if ``type_`` takes it. With ``type_=None`` any value
    is encoded by its own type. Raises UsageError if the type has no codec.
    """
    if type_ is None:
        return encode
    codec, name = codec_for(type_), getattr(type_, "__name__", str(type_))
    check = _checker(codec, type_)

    def encode_checked(value: Any) -> tuple[bytes | None, str]:
        try:
            value = check(value)
        except ValidationError as error:
            problems = _problems(error)
        else:
            return (None, "") if value is None else (codec.encode(value), codec.content_type)
        reason = f"a {type(value).__name__} cannot be published as {name}: {problems}"
        if value is None:
            reason += f"; declare {name} | None to publish tombstones"
        raise UsageError(reason)

    return encode_checked


def _checker(codec: Codec, type_: Any) -> Callable[[Any], Any]:
    """Return a function that validates a value. It raises ValidationError or UsageError."""
    if not isinstance(codec, ProtobufCodec):
        return _adapter(type_).validate_python

    def check(value: Any) -> Any:
        if not isinstance(value, type_):
            reason = f"a {type(value).__name__} cannot be published as {type_.__name__}"
            raise UsageError(f"{reason}; publish a {type_.__name__}")
        return value

    return check
