"""Show dead letters at a terminal: as columns, as JSON, and with their bodies.

A dead letter is text from outside. No control character of it reaches the terminal, and no body is
shown unless it is asked for: it may hold a secret.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import REDRIVEN
from gizmopy.untrusted.text import as_lines, escape_json, quoted

_PREFIX = "gizmo-dl-"
COLUMNS = (
    "id",
    "age",
    f"{_PREFIX}reason",
    f"{_PREFIX}exception",
    f"{_PREFIX}attempts",
    f"{_PREFIX}source-topic",
    f"{_PREFIX}first-failed-at",
    f"{_PREFIX}message-id",
    REDRIVEN,
)
_PLACES = ("source-topic", "source-subscription", "source-partition")
_FIELDS = (
    "reason",
    "exception",
    "handler",
    *_PLACES,
    "message-id",
    "deliveries",
    "attempts",
    "first-failed-at",
    "redriven",
)
_HEX_LINE = 32
"""The bytes in one line of a binary body."""


def row(message: Message) -> str:
    """Return a dead letter as one line of columns, without its body."""
    values = {**message.attributes, "id": message.id, "age": _age(message)}
    return "\t".join(quoted(values.get(name, "")) or "-" for name in COLUMNS)


def as_json(message: Message, *, body_bytes: int | None) -> str:
    """Return a dead letter as JSON on one line.

    With ``body_bytes`` it has the key, all attributes, and as much of the body.
    """
    found: dict[str, Any] = {
        "id": message.id,
        "published_at": message.published_at.isoformat(),
        "age_seconds": round(_seconds(message), 3),
    }
    for name in _FIELDS:
        found[name.replace("-", "_")] = message.attributes.get(_PREFIX + name)
    if body_bytes is not None:
        found["key"] = message.key
        found["attributes"] = dict(message.attributes)
        found["body"] = None if message.body is None else _body(message.body, body_bytes)
    return escape_json(json.dumps(found))


def whole(message: Message, *, body_bytes: int) -> str:
    """Return a dead letter with its key, its attributes, and ``body_bytes`` of its body."""
    lines = [f"id: {quoted(message.id)}", f"age: {_age(message)}"]
    if message.key is not None:
        lines.append(f"key: {quoted(message.key)}")
    lines += (f"{quoted(name)}: {quoted(text)}" for name, text in message.attributes.items())
    return "\n".join([*lines, _body_lines(message.body, body_bytes), ""])


def _age(message: Message) -> str:
    seconds = int(_seconds(message))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _seconds(message: Message) -> float:
    """Return the seconds since a dead letter was published; a clock may be ahead of this one."""
    return max(0.0, (datetime.now(UTC) - message.published_at).total_seconds())


def _body(body: bytes, most: int) -> dict[str, Any]:
    shown = body[:most]
    text = _text(shown)
    content = {"hex": shown.hex()} if text is None else {"text": text}
    return {**content, "size": len(body), "is_cut": len(body) > most}


def _body_lines(body: bytes | None, most: int) -> str:
    """Return a body: JSON with indents, text as it is, anything else in hexadecimal."""
    if body is None:
        return "body: none (a tombstone)"
    shown = body[:most]
    note = f", the first {most} shown; --body-bytes shows more" if len(body) > most else ""
    text = _text(shown)
    if text is None:
        lines = (shown[at : at + _HEX_LINE].hex(" ") for at in range(0, len(shown), _HEX_LINE))
        return "\n  ".join((f"body: {len(body)} bytes of binary data{note}", *lines))
    return f"body: {len(body)} bytes{note}\n  {as_lines(_indented(text))}"


def _indented(text: str) -> str:
    """Return JSON with indents, and any other text unchanged."""
    try:
        # A number of 5,000 digits is a ValueError, too, and a thousand brackets a RecursionError.
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _text(data: bytes) -> str | None:
    """Return a body as text, or None if it is binary. Its end may be a part of a character."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3 or error.reason != "unexpected end of data":
            return None
        text = data[: error.start].decode()
    return None if "\0" in text else text


def failure(message: Message, reason: str) -> str:
    """Return the line about a dead letter that failed."""
    identity = message.attributes.get(f"{_PREFIX}message-id", message.id)
    return f"message {quoted(identity)}: {quoted(reason)}"


def topic(name: str) -> str:
    """Return a topic that a dead letter names, for a sentence."""
    return f"topic '{quoted(name)}'" if name else "other topics"
