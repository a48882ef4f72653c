"""CloudEvents 1.0, in binary and in structured mode.

    await publish("cats", cat, attributes=CloudEvent(type="cat.born", source="/cats").attributes())
    await publish("cats", CloudEvent(type="cat.born", source="/cats").structured(cat))
    event = CloudEvent.from_message(message)

In binary mode the attributes of an event are attributes of the message, the body is its data, and
``content-type`` its ``datacontenttype``. They have the same names on every broker, ``ce-type`` and
so on; the engine translates them to the binding of the broker (``event_binding``). In structured
mode the body is the whole event in JSON (``event_json``). A handler's payload is the data of the
event in both modes.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.observe.context import new_id
from gizmopy.pubsub.codecs import encode
from gizmopy.pubsub.event_binding import HTTP, OTHER_PREFIX, PREFIX, is_structured, renamed
from gizmopy.pubsub.event_json import EVENT_JSON, check_format, is_json, read_event, write_event
from gizmopy.pubsub.message import CONTENT_TYPE, Message, RepeatedAttributes
from gizmopy.untrusted.text import cut

_VERSION = "1.0"
_REQUIRED = ("type", "source", "id")
_OPTIONAL = ("subject", "dataschema", "datacontenttype")
_PREFIXED = (*_REQUIRED, "subject", "dataschema")
_RESERVED = {*_REQUIRED, *_OPTIONAL, "time", "specversion", "data"}
_INTEGERS = range(-(2**31), 2**31)
"""The integers of CloudEvents, which have 32 bits."""
_EXTENSION = re.compile(r"[a-z0-9]+")
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", flags=re.ASCII
)
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)
)
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_NONCHARACTERS}]")
"""Characters that CloudEvents 1.0 forbids: control characters, surrogates, noncharacters."""

Extension = str | bool | int | bytes | datetime
"""The value of an extension. In binary mode each one is text: ``true``, ``5``, base64, RFC 3339."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes of an event, as CloudEvents 1.0 defines them.

    ``type`` is the kind of event, ``source`` (a URI reference) the context in which it happened,
    ``subject`` the object that it concerns, and ``time`` the date. ``source`` and ``id`` together
    identify the event: a duplicate has the same two. ``datacontenttype`` is the media type of the
    body; with None, the codec's is used. The names of ``extensions`` are lower-case letters and
    digits. An extension is received as text in binary mode, and as text, int or bool in structured
    mode. The extension ``partitionkey`` is the key of a message that is published without one.

    Raises UsageError on values that CloudEvents 1.0 does not allow.
    """

    type: str
    source: str
    id: str = field(default_factory=new_id)
    subject: str | None = None
    time: datetime | None = None
    dataschema: str | None = None
    datacontenttype: str | None = None
    extensions: Mapping[str, Extension] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _REQUIRED:
            _check(name, getattr(self, name))
        for name in _OPTIONAL:
            if (text := getattr(self, name)) is not None:
                _check(name, text)
        for name, value in self.extensions.items():
            _check_extension(name, value)
        if self.time is not None:
            _check_time("time", self.time)

    def attributes(self) -> dict[str, str]:
        """Return the event in binary mode: as attributes of the message that has its data."""
        members = self._members()
        content_type = members.pop("datacontenttype", None)
        attributes = {f"{PREFIX}{name}": _as_text(value) for name, value in members.items()}
        return attributes if content_type is None else attributes | {CONTENT_TYPE: content_type}

    def structured(self, value: object, *, key: str | None = None) -> Message:
        """Return the event in structured mode, to be published: a message whose body is JSON.

        ``value`` is the data, as for ``publish``; None is an event without data. Bytes become
        ``data_base64``. ``key`` is the message's; default: the extension ``partitionkey``.

        Raises UsageError if the value cannot be encoded, or not as ``datacontenttype`` says.
        """
        body, content_type = encode(value)
        kind = self.datacontenttype or content_type
        if isinstance(value, str) and is_json(kind):
            body = json.dumps(value).encode()
        elif body is not None and is_json(content_type) and not is_json(kind):
            name = type(value).__name__
            raise UsageError(
                f"a {name} is sent as JSON, which datacontenttype={cut(kind)!r} is not; "
                "leave it out, or encode the value yourself"
            )
        members = self._members()
        if kind:
            members["datacontenttype"] = kind
        members = {name: _as_json(value) for name, value in members.items()}
        is_binary = isinstance(value, (bytes, bytearray, memoryview))
        if key is None and "partitionkey" in members:
            key = _as_text(members["partitionkey"]) or None
        event = write_event(members, body, binary=is_binary)
        return Message("", event, key=key, attributes={CONTENT_TYPE: EVENT_JSON})

    def _members(self) -> dict[str, Any]:
        """Return the attributes that are set, by their names in CloudEvents."""
        members: dict[str, Any] = {"specversion": _VERSION}
        for name in (*_PREFIXED, "datacontenttype", "time"):
            if (value := getattr(self, name)) is not None:
                members[name] = value
        return members | dict(self.extensions)

    @classmethod
    def from_message(cls, message: Message) -> CloudEvent:
        """Return the event of a message, in binary or structured mode.

        Raises UndecodableMessage, which dead-letters the message, if there is no valid event.
        """
        content_type = message.attributes.get(CONTENT_TYPE, "")
        if not is_structured(content_type):
            return cls.from_attributes(message.attributes)
        check_format(content_type)
        members, _ = read_event(message.body)
        return cls._read(members, "")

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str]) -> CloudEvent:
        """Return the event in the attributes of a message, in binary mode.

        Raises UndecodableMessage, which dead-letters the message, if there is no valid event.
        """
        content_type = attributes.get(CONTENT_TYPE) or None
        if content_type is not None and is_structured(content_type):
            raise UndecodableMessage(
                f"content-type={cut(content_type)!r} is a CloudEvent in structured mode, with its "
                "attributes in the body; use CloudEvent.from_message(message)"
            )
        attributes = renamed(attributes, OTHER_PREFIX, PREFIX)
        _check_repeated(attributes)
        members: dict[str, Any] = {
            name.removeprefix(PREFIX): text
            for name, text in attributes.items()
            if name.startswith(PREFIX)
        }
        if "datacontenttype" in members:
            raise UndecodableMessage(
                "a CloudEvent in binary mode has its 'datacontenttype' in content-type, "
                "not in ce-datacontenttype"
            )
        if content_type is not None:
            members["datacontenttype"] = content_type
        return cls._read(members, PREFIX)

    @classmethod
    def _read(cls, members: dict[str, Any], prefix: str) -> CloudEvent:
        """Return the event with these attributes, which the sender calls ``prefix`` + name."""
        _check_version(members, prefix)
        del members["specversion"]
        time = _read_time(members.pop("time", None), prefix)
        known = {name: members.pop(name) for name in (*_REQUIRED, *_OPTIONAL) if name in members}
        try:
            return cls(**known, time=time, extensions=members)
        except UsageError as error:
            raise UndecodableMessage(str(error)) from None


def data_of(message: Message) -> bytes | None:
    """Return the data of a message's event, in binary or structured mode; None if it has none.

    Raises UndecodableMessage if the body is an event in structured mode and not a valid one.
    """
    content_type = message.attributes.get(CONTENT_TYPE, "")
    if not is_structured(content_type):
        return message.body
    return structured_data(message.body, content_type)


def structured_data(body: bytes | None, content_type: str) -> bytes | None:
    """Return the data of an event in structured mode. Raises UndecodableMessage."""
    check_format(content_type)
    members, data = read_event(body)
    CloudEvent._read(members, "")
    return data


def from_http(headers: Mapping[str, str], body: bytes) -> Message:
    """Return the event of an HTTP request or response as a message, in the mode that it has.

    It has the event's headers only. Raises UndecodableMessage if one is not percent-encoded UTF-8.
    """
    pairs = [
        (name.lower(), text)
        for name, text in headers.items()
        if name.lower() == CONTENT_TYPE or name.lower().startswith(PREFIX)
    ]
    _check_repeated(RepeatedAttributes(pairs))
    return Message("", body, attributes=HTTP.from_wire(dict(pairs)))


def to_http(message: Message) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an HTTP request or response with a message's event."""
    body, attributes = HTTP.to_wire(message.body, message.attributes)
    return dict(attributes), body or b""


# The values of attributes.


def _as_text(value: Extension) -> str:
    """Return the canonical text of a value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def _as_json(value: Extension) -> str | bool | int:
    return value if isinstance(value, (bool, int)) else _as_text(value)


def _check(name: str, text: str) -> None:
    """Reject a value that is not text, has forbidden characters, or is empty but standard."""
    if not isinstance(text, str):
        raise UsageError(f"a CloudEvent's {cut(name)}={cut(repr(text))} is not text; use str(...)")
    if not text and name in _RESERVED:
        raise UsageError(f"a CloudEvent's {name} is empty; set it, or leave it out")
    if _FORBIDDEN.search(text):
        reason = "has a character that CloudEvents forbid; encode it, for example as base64"
        raise UsageError(f"a CloudEvent's {cut(name)}={cut(text)!r} {reason}")


def _check_time(name: str, time: datetime) -> None:
    if time.tzinfo is None:
        raise UsageError(f"a CloudEvent's {name}={time} has no time zone; use datetime.now(UTC)")


def _check_extension(name: str, value: Extension) -> None:
    if name in _RESERVED:
        raise UsageError(
            f"a CloudEvent's extension cannot have the reserved name {cut(name)!r}; rename it"
        )
    if not _EXTENSION.fullmatch(name):
        remedy = "use lower-case letters and digits only"
        raise UsageError(f"a CloudEvent's extension cannot be named {cut(name)!r}; {remedy}")
    if isinstance(value, datetime):
        _check_time(name, value)
    elif isinstance(value, int):  # a bool is one, too
        if value not in _INTEGERS:
            raise UsageError(
                f"a CloudEvent's {cut(name)} is an integer of more than 32 bits; use str(...)"
            )
    elif not isinstance(value, bytes):
        _check(name, value)


def _check_repeated(attributes: Mapping[str, str]) -> None:
    """Reject an event that has an attribute twice: two readers would see two events."""
    if isinstance(attributes, RepeatedAttributes):
        counts = Counter(name for name, _ in attributes.items() if name.startswith(PREFIX))
        for name, count in counts.items():
            if count > 1:
                raise UndecodableMessage(f"a CloudEvent has {cut(name)!r} twice; leave one out")


def _check_version(members: Mapping[str, Any], prefix: str) -> None:
    """Reject attributes without an event, or of another version."""
    missing = [name for name in ("specversion", *_REQUIRED) if name not in members]
    if missing:
        names = ", ".join(prefix + name for name in missing)
        raise UndecodableMessage(f"not a CloudEvent: the attributes {names} are missing")
    if (version := members["specversion"]) != _VERSION:
        raise UndecodableMessage(
            f"{prefix}specversion={cut(repr(version))} is not supported; use {_VERSION!r}"
        )


def _read_time(text: object, prefix: str) -> datetime | None:
    if text is None:
        return None
    try:
        if isinstance(text, str) and _RFC_3339.fullmatch(text):
            return _parsed(text.upper())
    except (ValueError, OverflowError):
        pass  # such as the 30th of February
    raise UndecodableMessage(
        f"{prefix}time={cut(repr(text))} is not a time as in RFC 3339, such as 2018-04-05T17:31:00Z"
    )


def _parsed(text: str) -> datetime:
    if text[17:19] == "60":  # a leap second, which RFC 3339 has and Python has not
        return datetime.fromisoformat(f"{text[:17]}59{text[19:]}") + timedelta(seconds=1)
    return datetime.fromisoformat(text)
