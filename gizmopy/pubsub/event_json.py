"""The JSON event format of CloudEvents 1.0: an event in structured mode as a body, and back.

The data of an event is copied as the text that it is in the JSON, never parsed and written again:
a number keeps its digits, and the codec of the handler's type reads what the sender has written.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from gizmopy.errors import UndecodableMessage
from gizmopy.pubsub.event_binding import PREFIX
from gizmopy.pubsub.message import CONTENT_TYPE, RepeatedAttributes
from gizmopy.untrusted.json_text import BYTE_ORDER_MARK, read_json
from gizmopy.untrusted.text import cut, is_utf8

EVENT_JSON = "application/cloudevents+json"
"""The content type of one event in JSON."""
_BATCH = "application/cloudevents-batch"
_CHARSETS = {
    "": "utf-8",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "iso-8859-1": "latin-1",
}
"""The encodings of text data. Not all of Python's: to encode as ``idna`` takes quadratic time."""
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = " \t\n\r"


def media_type(content_type: str) -> tuple[str, str]:
    """Return the media type in lower case, without parameters, and the charset if there is one."""
    kind, *parameters = content_type.lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return kind.strip(), value.strip().strip('"')
    return kind.strip(), ""


def is_json(content_type: str) -> bool:
    """Return whether a content type declares JSON: ``*/json`` or ``*/*+json``."""
    kind, _ = media_type(content_type)
    return kind.endswith(("/json", "+json"))


def is_known_format(content_type: str) -> bool:
    """Return whether a content type of structured mode is that of JSON, or of a batch."""
    kind, _ = media_type(content_type)
    return kind == EVENT_JSON or kind.startswith(_BATCH)


def check_format(content_type: str) -> None:
    """Raise UndecodableMessage unless the content type is that of one event in JSON."""
    kind, charset = media_type(content_type)
    shown = f"content-type={cut(content_type)!r}"
    if kind.startswith(_BATCH):
        raise UndecodableMessage(
            f"{shown} is a batch of CloudEvents, which no broker's binding has; "
            "send each event as a message of its own"
        )
    if kind != EVENT_JSON or charset not in ("", "utf-8", "utf8"):
        raise UndecodableMessage(
            f"{shown} is a CloudEvent in a format that is not supported; use {EVENT_JSON}, "
            "or take the Message and decode its body"
        )


# Read.


def read_event(body: bytes | None) -> tuple[dict[str, Any], bytes | None]:
    """Return the attributes of an event in JSON, without their ``ce-``, and its data.

    ``datacontenttype`` is set as the format implies it. Raises UndecodableMessage.
    """
    if body is None:
        raise UndecodableMessage("not a CloudEvent: the message has no body")
    try:
        members = read_json(body)
        if not isinstance(members, dict):
            raise UndecodableMessage("not a CloudEvent: the JSON is not an object")
        sources = _sources(body.removeprefix(BYTE_ORDER_MARK).decode())
    except UndecodableMessage:
        raise
    except ValueError as error:
        reason = cut(str(error))
    else:
        return _attributes(members), _data(members, sources)
    raise UndecodableMessage(f"not a CloudEvent in JSON: {reason}")


def _attributes(members: Mapping[str, Any]) -> dict[str, Any]:
    # A null is an attribute that is not set.
    attributes = {
        name: value
        for name, value in members.items()
        if value is not None and name not in ("data", "data_base64")
    }
    for name, value in attributes.items():
        if not isinstance(value, (str, bool, int)):
            kind = "an object" if isinstance(value, dict) else "a list"
            kind = "a number with a fraction" if isinstance(value, float) else kind
            raise UndecodableMessage(
                f"a CloudEvent's {cut(name)!r} is {kind}; use text, a whole number or a boolean"
            )
    if "data" in members:
        attributes.setdefault("datacontenttype", "application/json")
    return attributes


def _data(members: Mapping[str, Any], sources: Mapping[str, str]) -> bytes | None:
    """Return the data of an event as its content type has it; None if it has none."""
    encoded = members.get("data_base64")
    if encoded is not None and "data" in members:
        raise UndecodableMessage("a CloudEvent has data and data_base64; leave one out")
    if encoded is not None:
        return _from_base64(encoded)
    if "data" not in members:
        return None
    content_type = members.get("datacontenttype")
    if content_type is None or (isinstance(content_type, str) and is_json(content_type)):
        return sources["data"].encode()
    value = members["data"]
    shown = cut(repr(content_type))
    if not isinstance(value, str):
        raise UndecodableMessage(
            f"a CloudEvent's datacontenttype={shown} is not JSON, so its data must be text"
        )
    charset = _CHARSETS.get(media_type(str(content_type))[1])
    try:
        if charset is not None:
            return value.encode(charset)
    except UnicodeEncodeError:
        pass
    raise UndecodableMessage(
        f"a CloudEvent's data cannot be encoded as datacontenttype={shown} says; use data_base64"
    )


def _from_base64(encoded: object) -> bytes:
    if isinstance(encoded, str):
        try:
            return b64decode(encoded, validate=True)
        except ValueError:
            pass
    raise UndecodableMessage("a CloudEvent's data_base64 is not base64")


def _sources(text: str) -> dict[str, str]:
    """Return the JSON text of each member. ``text`` is an object in valid JSON.

    Raises UndecodableMessage if a name is repeated: two readers would see two events.
    """
    sources: dict[str, str] = {}
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _SCANNER.raw_decode(text, at)
        start = _after_space(text, _after_space(text, at) + 1)  # after the colon
        _, at = _SCANNER.raw_decode(text, start)
        if name in sources:
            raise UndecodableMessage(f"a CloudEvent has {cut(name)!r} twice; leave one out")
        sources[name] = text[start:at]
        at = _after_space(text, at)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return sources


def _after_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


# Write.


def write_event(attributes: Mapping[str, object], body: bytes | None, *, binary: bool) -> bytes:
    """Return an event in JSON. ``attributes`` have no ``ce-``, and are values that JSON has.

    ``body`` is the data as the ``datacontenttype`` among them says. It becomes JSON or text if that
    allows, and ``data_base64`` otherwise, or if the data is ``binary``.
    """
    head = json.dumps(attributes, ensure_ascii=False, separators=(",", ":")).encode()
    if body is None:
        return head
    name, data = _written(str(attributes.get("datacontenttype") or ""), body, binary)
    return b'%s,"%s":%s}' % (head[:-1], name, data)


def _written(content_type: str, body: bytes, binary: bool) -> tuple[bytes, bytes]:
    """Return the name and the JSON of the member that has the data."""
    kind, charset = media_type(content_type)
    if not binary and is_json(content_type) and _is_valid_json(body):
        return b"data", body.removeprefix(BYTE_ORDER_MARK)
    is_text = kind.startswith("text/") and _CHARSETS.get(charset) == "utf-8"
    if not binary and is_text and is_utf8(body):
        return b"data", json.dumps(body.decode(), ensure_ascii=False).encode()
    return b"data_base64", b'"%s"' % b64encode(body)


def _is_valid_json(body: bytes) -> bool:
    try:
        read_json(body)
    except ValueError:
        return False
    return is_utf8(body)


def as_structured(
    body: bytes | None, attributes: Mapping[str, str]
) -> tuple[bytes, Mapping[str, str]]:
    """Return an event in binary mode as one in structured mode, with its other attributes."""
    members = {n.removeprefix(PREFIX): text for n, text in attributes.items() if n[:3] == PREFIX}
    if content_type := attributes.get(CONTENT_TYPE):
        members["datacontenttype"] = content_type
    kept = [pair for pair in attributes.items() if pair[0][:3] != PREFIX]
    kept = [pair for pair in kept if pair[0] != CONTENT_TYPE] + [(CONTENT_TYPE, EVENT_JSON)]
    written = write_event(members, body, binary=False)
    if isinstance(attributes, RepeatedAttributes):
        return written, RepeatedAttributes(kept)
    return written, dict(kept)
