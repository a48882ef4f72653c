"""Decide how the items of a stream are sent, from the type that an endpoint declares.

- ``AsyncIterator[Cat]``: JSON lines, one for each item
- ``AsyncIterator[str]``, ``AsyncIterator[bytes]``: the items as they are
- ``EventStream[Cat]``, or any item that may be an Event: server-sent events
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic_core import PydanticSerializationError, to_json

from gizmopy.errors import DeclarationError, UsageError
from gizmopy.web.decorators import Route
from gizmopy.web.events import EVENT_STREAM, KEEP_ALIVE, Event, encode_data, encode_event
from gizmopy.web.parameters import UNKNOWN_TYPE
from gizmopy.web.result_json import ResultJSON, ResultMismatch
from gizmopy.web.results import BYTES, ResultValue, is_class, is_undeclared, members, union_of
from gizmopy.web.streams import ItemStream, Sleep

JSON_LINES = "application/x-ndjson"
_LINES = ("ndjson", "jsonl", "jsonlines", "json-lines")

_TEXT_TYPES = (str, bytes, bytearray, memoryview)

_Encode = Callable[[object], bytes]


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """How the items of a stream are sent."""

    media_type: str
    is_events: bool
    is_raw: bool
    """Whether items are sent as they are."""
    types: tuple[Any, ...]
    """The types of the items, or of the data of events."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        headers = {"Content-Type": self.media_type}
        if self.is_events:
            headers["Cache-Control"] = "no-store"
        if not self.is_raw:
            headers["X-Accel-Buffering"] = "no"  # nginx would collect the items
        return headers


def stream_format(route: Route, declared: ResultValue) -> StreamFormat:
    """Return how the declared streams of an endpoint are sent.

    Raises DeclarationError if its ``media_type`` does not fit the type of the items.
    """
    given = route.options.media_type
    events = [each for each in declared.streams if _is_event(each)]
    plain = [each for each in declared.streams if not _is_event(each)]
    if events:
        if given is not None:
            reason = f"sends events, so its media type is {EVENT_STREAM}, and not {given!r}"
            raise DeclarationError(route.function, f"{reason}; leave media_type= out")
        for each in events:
            plain += members(*(get_args(each) or (Any,)))
        types = tuple(dict.fromkeys(plain))  # EventStream[T] has T twice
        return StreamFormat(EVENT_STREAM, True, False, types)
    is_text = all(each in _TEXT_TYPES for each in plain)
    is_any = all(is_undeclared(each) for each in plain)
    if given is not None and essence(given).endswith(_LINES):
        return StreamFormat(given, False, False, tuple(plain))
    if is_text or (is_any and given is not None):
        media_type = given or ("text/plain" if plain == [str] else "application/octet-stream")
        if str in plain:
            media_type = text_type(media_type)
        return StreamFormat(media_type, False, True, tuple(plain))
    if given is not None:
        names = ", ".join(getattr(each, "__name__", str(each)) for each in plain)
        reason = f"sends items of {names} as JSON lines, which are not {given!r}"
        raise DeclarationError(route.function, f"{reason}; yield str or bytes")
    return StreamFormat(JSON_LINES, False, False, tuple(plain))


def _is_event(annotation: Any) -> bool:
    return is_class(get_origin(annotation) or annotation, Event)


def essence(media_type: str) -> str:
    """Return a media type without its parameters, in small letters."""
    return media_type.partition(";")[0].strip().lower()


def text_type(media_type: str) -> str:
    """Return a media type with the charset of texts, if it is one of texts."""
    is_text = essence(media_type).startswith("text/") and "charset" not in media_type.lower()
    return f"{media_type}; charset=utf-8" if is_text else media_type


def stream_encoder(
    route: Route, declared: ResultValue, sleep: Sleep
) -> Callable[[AsyncIterable[object], int], ItemStream]:
    """Return the function that makes the response of a stream, with its status.

    Raises DeclarationError if an item has no JSON form.
    """
    form = stream_format(route, declared)
    encode = _item_encoder(route, form)
    endpoint = f"{route.method} {route.path}: {route.name}"
    is_endless = form.is_events or route.options.endless

    def encode_item(item: object) -> bytes:
        try:
            return encode(item)
        except ResultMismatch as mismatch:
            reason = f"which is not of the declared type: {mismatch}"
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            reason = f"which cannot be encoded: {error}"
        name = "None" if item is None else f"a {type(item).__qualname__}"
        raise UsageError(f"{endpoint} yielded {name}, {reason}")

    def make(items: AsyncIterable[object], status: int) -> ItemStream:
        return ItemStream(
            items,
            encode_item,
            status=status,
            headers=form.headers,
            is_endless=is_endless,
            keep_alive=KEEP_ALIVE if form.is_events else b"",
            sleep=sleep,
        )

    return make


def _item_encoder(route: Route, form: StreamFormat) -> _Encode:
    if form.is_raw:
        return _raw_encoder(form.types)
    if not form.is_events:
        encode_json = _json_encoder(route, form.types)
        return lambda item: encode_json(item) + b"\n"
    encode_value = _data_encoder(route, form.types)

    def encode(item: object) -> bytes:
        if not isinstance(item, Event):
            return encode_data(encode_value(item))
        return encode_event(item, None if item.data is None else encode_value(item.data))

    return encode


def _raw_encoder(types: tuple[Any, ...]) -> _Encode:
    is_any = any(is_undeclared(each) for each in types)
    takes_text = is_any or str in types
    takes_bytes = is_any or any(each in BYTES for each in types)

    def encode(item: object) -> bytes:
        if takes_text and isinstance(item, str):
            return item.encode()
        if takes_bytes and isinstance(item, BYTES):
            return bytes(item)
        names = " or ".join(["str"] * takes_text + ["bytes"] * takes_bytes)
        raise ResultMismatch(f"yield {names}")

    return encode


def _data_encoder(route: Route, types: tuple[Any, ...]) -> Callable[[object], str]:
    """Return the function that encodes the data of events: text as it is, all else as JSON."""
    takes_text = str in types or any(is_undeclared(each) for each in types)
    others = tuple(each for each in types if each is not str)
    encode_json = _json_encoder(route, others) if others else None

    def encode(value: object) -> str:
        if takes_text and isinstance(value, str):
            return value
        if encode_json is None:
            raise ResultMismatch("yield str, or an Event of it")
        return encode_json(value).decode()

    return encode


def _json_encoder(route: Route, types: tuple[Any, ...]) -> _Encode:
    if any(is_undeclared(each) for each in types):
        return lambda value: to_json(value, by_alias=True, inf_nan_mode="null")
    try:
        return ResultJSON(union_of(types)).encode
    except UNKNOWN_TYPE as error:
        why = str(error).partition("\n\n")[0]  # without pydantic's hints and its link to a page
        reason = f"its items have a type without a JSON form: {why}; yield a type that pydantic"
        raise DeclarationError(route.function, f"{reason} knows, str or bytes") from error
