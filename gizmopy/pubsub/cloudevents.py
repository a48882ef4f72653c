"""CloudEvents 1.0 in binary mode: the attributes of an event are attributes of the message.

    await publish("cats", cat, attributes=CloudEvent(type="cat.born", source="/cats").attributes())
    event = CloudEvent.from_attributes(message.attributes)

The body is the event's data, and its ``content-type`` the event's ``datacontenttype``. The
attributes have the same names on every broker, ``ce-type`` and so on; a driver translates them to
the names of its protocol binding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.observe.context import new_id
from gizmopy.pubsub.message import CONTENT_TYPE
from gizmopy.untrusted.text import cut

_PREFIX = "ce-"
_VERSION = "1.0"
_REQUIRED = ("type", "source", "id")
_OPTIONAL = ("subject", "dataschema", "datacontenttype")
_PREFIXED = (*_REQUIRED, "subject", "dataschema")
_RESERVED = {*_REQUIRED, *_OPTIONAL, "time", "specversion", "data"}
_STRUCTURED = "application/cloudevents"
_EXTENSION = re.compile(r"[a-z0-9]+")
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", flags=re.ASCII
)
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)
)
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_NONCHARACTERS}]")
"""Characters that CloudEvents 1.0 forbids: control characters, surrogates, noncharacters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes of an event, as CloudEvents 1.0 defines them.

    ``type`` is the kind of event, ``source`` (a URI reference) the context in which it happened,
    ``subject`` the object that it concerns, and ``time`` the date. ``source`` and ``id`` together
    identify the event: a duplicate has the same two. ``datacontenttype`` is the media type of the
    body; with None, the codec's is used. The names of ``extensions`` are lower-case letters and
    digits.

    Raises UsageError on values that CloudEvents 1.0 does not allow.
    """

    type: str
    source: str
    id: str = field(default_factory=new_id)
    subject: str | None = None
    time: datetime | None = None
    dataschema: str | None = None
    datacontenttype: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _REQUIRED:
            _check(name, getattr(self, name))
        for name in _OPTIONAL:
            if (text := getattr(self, name)) is not None:
                _check(name, text)
        for name, text in self.extensions.items():
            _check_extension(name, text)
        if self.time is not None and self.time.tzinfo is None:
            raise UsageError(
                f"a CloudEvent's time={self.time} has no time zone; use datetime.now(UTC)"
            )

    def attributes(self) -> dict[str, str]:
        """Return the event as attributes of a message."""
        attributes = {"ce-specversion": _VERSION}
        if self.datacontenttype is not None:
            attributes[CONTENT_TYPE] = self.datacontenttype
        if self.time is not None:
            attributes["ce-time"] = self.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
        for name in _PREFIXED:
            if (text := getattr(self, name)) is not None:
                attributes[_PREFIX + name] = text
        for name, text in self.extensions.items():
            attributes[_PREFIX + name] = text
        return attributes

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str]) -> CloudEvent:
        """Return the event in the attributes of a message.

        Raises UndecodableMessage, which dead-letters the message, if there is no valid event.
        """
        content_type = attributes.get(CONTENT_TYPE) or None
        texts = {
            name.removeprefix(_PREFIX): text
            for name, text in attributes.items()
            if name.startswith(_PREFIX)
        }
        _check_binary(texts, content_type)
        del texts["specversion"]
        time = _read_time(texts.pop("time", None))
        known = {name: texts.pop(name) for name in _PREFIXED if name in texts}
        try:
            return cls(**known, time=time, datacontenttype=content_type, extensions=texts)
        except UsageError as error:
            raise UndecodableMessage(str(error)) from None


def _check(name: str, text: str) -> None:
    """Reject a value that is not text, has forbidden characters, or is empty but standard."""
    if not isinstance(text, str):
        raise UsageError(f"a CloudEvent's {cut(name)}={cut(repr(text))} is not text; use str(...)")
    if not text and name in _RESERVED:
        raise UsageError(f"a CloudEvent's {name} is empty; set it, or leave it out")
    if _FORBIDDEN.search(text):
        reason = "has a character that CloudEvents forbid; encode it, for example as base64"
        raise UsageError(f"a CloudEvent's {cut(name)}={cut(text)!r} {reason}")


def _check_extension(name: str, text: str) -> None:
    if name in _RESERVED:
        raise UsageError(
            f"a CloudEvent's extension cannot have the reserved name {cut(name)!r}; rename it"
        )
    if not _EXTENSION.fullmatch(name):
        remedy = "use lower-case letters and digits only"
        raise UsageError(f"a CloudEvent's extension cannot be named {cut(name)!r}; {remedy}")
    _check(name, text)


def _check_binary(texts: Mapping[str, str], content_type: str | None) -> None:
    """Reject attributes without an event in binary mode, or of another version."""
    if (content_type or "").lower().startswith(_STRUCTURED):
        raise UndecodableMessage(
            f"content-type={cut(content_type or '')!r} is a CloudEvent in structured mode, with "
            "its attributes in the body; publish it in binary mode, or decode the body yourself"
        )
    missing = [name for name in ("specversion", *_REQUIRED) if name not in texts]
    if missing:
        names = ", ".join(_PREFIX + name for name in missing)
        raise UndecodableMessage(f"not a CloudEvent: the attributes {names} are missing")
    if texts["specversion"] != _VERSION:
        version = texts["specversion"]
        raise UndecodableMessage(
            f"ce-specversion={cut(version)!r} is not supported; use {_VERSION!r}"
        )


def _read_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass  # such as the 30th of February
    raise UndecodableMessage(
        f"ce-time={cut(text)!r} is not a time as in RFC 3339, such as 2018-04-05T17:31:00Z"
    )
