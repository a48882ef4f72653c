"""Turn values into bodies and back: JSON by pydantic, protobuf, text, and bytes as they are.

A codec is chosen by type, once, and remembered. Protobuf messages are known by their two methods,
so the library is not needed here. What a codec cannot read raises UndecodableMessage; its text
names the fields at fault and never quotes the body, which may end in a log.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError

from gizmopy.errors import UndecodableMessage, UsageError


class Codec(Protocol):
    """Encode values of one type, and decode them."""

    content_type: str

    def encode(self, value: Any) -> bytes:
        """Return the body for ``value``. Raises UsageError where it cannot be encoded."""

    def decode(self, body: bytes) -> Any:
        """Return the value in ``body``. Raises UndecodableMessage where there is none."""


class BytesCodec:
    """Leave bytes as they are."""

    content_type = "application/octet-stream"

    def encode(self, value: bytes | bytearray | memoryview) -> bytes:
        """Return ``value`` as bytes."""
        return bytes(value)

    def decode(self, body: bytes) -> bytes:
        """Return ``body``."""
        return body


class TextCodec:
    """Write text as UTF-8."""

    content_type = "text/plain; charset=utf-8"

    def encode(self, value: str) -> bytes:
        """Return ``value`` in UTF-8. Raises UsageError on lone surrogates."""
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"text cannot be published: {error.reason}") from None

    def decode(self, body: bytes) -> str:
        """Return ``body`` read as UTF-8. Raises UndecodableMessage where it is not."""
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise UndecodableMessage(f"not UTF-8 at byte {error.start}") from None


class JSONCodec:
    """Write values of ``type_`` as JSON, and validate what is read: anything pydantic knows."""

    content_type = "application/json"

    def __init__(self, type_: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(type_)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            name, reason = getattr(type_, "__name__", str(type_)), str(error).splitlines()[0]
            raise UsageError(
                f"{name} has no codec; use a pydantic model, a dataclass, a dict, a list, str, "
                f"bytes or a protobuf message ({reason})"
            ) from error

    def encode(self, value: Any) -> bytes:
        """Return ``value`` as JSON. Raises UsageError where part of it cannot be JSON."""
        try:
            return self._adapter.dump_json(value)
        except PydanticSerializationError as error:
            name = type(value).__name__
            raise UsageError(f"{name} cannot be published as JSON: {error}") from error

    def decode(self, body: bytes) -> Any:
        """Return the validated value. Raises UndecodableMessage naming the fields at fault."""
        try:
            return self._adapter.validate_json(body)
        except ValidationError as error:
            raise UndecodableMessage(_problems(error)) from None  # the cause quotes the body


def _problems(error: ValidationError) -> str:
    """Return what is wrong where, without the input."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems)


class ProtobufCodec:
    """Write protobuf messages of the class ``type_`` in their binary form."""

    content_type = "application/x-protobuf"

    def __init__(self, type_: Any) -> None:
        self._type = type_

    def encode(self, value: Any) -> bytes:
        """Return ``value`` serialized. Raises UsageError where a required field is missing."""
        try:
            body: bytes = value.SerializeToString()
        except Exception as error:  # protobuf's EncodeError, which is not imported
            raise UsageError(f"{self._type.__name__} cannot be published: {error}") from error
        return body

    def decode(self, body: bytes) -> Any:
        """Return the message in ``body``. Raises UndecodableMessage where it is not one."""
        try:
            return self._type.FromString(body)
        except Exception:  # noqa: BLE001 - protobuf's DecodeError, which is not imported
            raise UndecodableMessage(f"not a serialized {self._type.__name__}") from None


_BYTES = BytesCodec()
_TEXT = TextCodec()


@lru_cache(maxsize=1024)
def codec_for(type_: Any) -> Codec:
    """Return the codec for values of ``type_``. Raises UsageError where there is none."""
    if type_ in (bytes, bytearray, memoryview):
        return _BYTES
    if type_ is str:
        return _TEXT
    if hasattr(type_, "FromString") and hasattr(type_, "SerializeToString"):
        return ProtobufCodec(type_)
    return JSONCodec(type_)


def encode(value: Any) -> tuple[bytes | None, str]:
    """Return the body and the content type for ``value``; None is a tombstone without either."""
    if value is None:
        return None, ""
    type_: Any = type(value)
    codec = codec_for(type_)
    return codec.encode(value), codec.content_type
