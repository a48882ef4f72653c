"""Describe the messages of a service as an AsyncAPI 3.0 document, from its declarations.

It has each channel that the service consumes, publishes to by ``publishes``, or gives dead letters;
the messages of each; and an operation for each subscription and each of these channels. It names no
hosts and no credentials: anybody who reaches the service may read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gizmopy.errors import GizmoError, UsageError
from gizmopy.pubsub import Subscription
from gizmopy.pubsub.addresses import Purpose
from gizmopy.pubsub.codecs import BytesCodec, ProtobufCodec, codec_for, without_wrapping
from gizmopy.pubsub.destinations import Destination, DestinationResolver
from gizmopy.pubsub.engine.dead_letter import DESCRIPTIONS
from gizmopy.pubsub.handlers import without_none
from gizmopy.pubsub.message import REQUEST_ID
from gizmopy.web.openapi.schemas import Schema, TypeSchema, fill_schemas

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_.-]")
_QUALIFIERS = re.compile(r"(?<![\w<>])[\w<>]++\.")
_CORRELATION = {
    "description": "The id of the request that the message is a result of, if there is one.",
    "location": f"$message.header#/{REQUEST_ID}",
}
_REQUEST = {"$ref": "#/components/correlationIds/request"}
_DEAD_LETTER_KEY = "gizmo-dead-letter"
_DEAD_LETTER = {
    "type": "object",
    "properties": {
        name: {"type": "string", "description": description}
        for name, description in DESCRIPTIONS.items()
    },
}
_KAFKA_BINDING = "0.5.0"


def asyncapi_document(
    subscriptions: Sequence[Subscription],
    publishes: Mapping[str, Any],
    *,
    title: str,
    version: str,
    description: str = "",
    destinations: DestinationResolver,
) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of a service, ready for JSON.

    ``publishes`` are the declared channels with their types, ``destinations`` their topics. The
    schema of a type without a JSON schema is logged as a warning and left out.
    """
    payloads = _Payloads()
    received = [payloads.add(f"{each.name}: the payload", each.payload) for each in subscriptions]
    sent = [
        payloads.add(f"publishes[{channel!r}]", type_, is_sent=True)
        for channel, type_ in publishes.items()
    ]
    schemas = payloads.fill()
    document = _Document(destinations)
    for each, message in zip(subscriptions, received, strict=True):
        document.add_subscription(each, message)
    for (channel, _), message in zip(publishes.items(), sent, strict=True):
        document.add_sender(channel, f"publish.{channel}", f"Publish to {channel}.", message)
    has_dead_letters = any(each.dead_letter for each in subscriptions)
    about = {"description": description} if description else {}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version, **about},
        "defaultContentType": "application/json",
        "channels": document.channels,
        "operations": document.operations,
        "components": {
            "schemas": schemas | ({_DEAD_LETTER_KEY: _DEAD_LETTER} if has_dead_letters else {}),
            "correlationIds": {"request": _CORRELATION},
        },
    }


# Messages.


class _Payloads:
    """The messages of a document, whose payloads get their schemas together."""

    def __init__(self) -> None:
        self._types: list[tuple[Schema, TypeSchema]] = []

    def add(self, location: str, type_: Any, *, is_sent: bool = False) -> Schema:
        """Return the message with values of ``type_``; its payload is missing until ``fill``."""
        message: Schema = {"name": _name_of(type_), "correlationId": _REQUEST}
        if type_ is None:
            return message
        inner, _ = without_none(type_)
        try:
            codec = codec_for(inner)
        except UsageError:  # such as a handler that takes None alone
            return message
        message["contentType"] = codec.content_type
        if not isinstance(codec, (BytesCodec, ProtobufCodec)):  # JSON Schema describes no bytes
            mode: Any = "serialization" if is_sent else "validation"
            self._types.append((message, TypeSchema(location, mode, type_)))
        return message

    def fill(self) -> Schema:
        """Give each message its payload, and return the schemas that they share."""
        shared = fill_schemas([schema for _, schema in self._types])
        for message, schema in self._types:
            if schema.schema:
                message["payload"] = _as_draft_7(schema.schema)
        return {name: _as_draft_7(schema) for name, schema in shared.items()}


def _name_of(type_: Any) -> str:
    """Return the name of a type without modules: ``Cat`` for a class, else as it is written."""
    if type_ is None:
        return "Any"
    bare = without_wrapping(without_none(type_)[0])
    if isinstance(bare, type) and not getattr(bare, "__args__", ()):
        return bare.__name__
    return _QUALIFIERS.sub("", str(bare))


def _as_draft_7(schema: Any) -> Any:
    """Return a JSON schema in the dialect of AsyncAPI, draft 7.

    pydantic writes that of OpenAPI 3.1, where tuples have ``prefixItems``, and a ``discriminator``
    is an object.
    """
    if isinstance(schema, list):
        return [_as_draft_7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: _as_draft_7(value) for key, value in schema.items()}
    if "oneOf" in copy and isinstance(copy.get("discriminator"), dict):
        del copy["discriminator"]
    if isinstance(copy.get("prefixItems"), list):
        if "items" in copy:
            copy["additionalItems"] = copy.pop("items")
        copy["items"] = copy.pop("prefixItems")
    return copy


# Channels and operations.


class _Document:
    """The channels and the operations of a document, under keys that are valid there."""

    def __init__(self, destinations: DestinationResolver) -> None:
        self.channels: dict[str, Schema] = {}
        self.operations: dict[str, Schema] = {}
        self._destinations = destinations
        self._keys: dict[str, str] = {}
        """The keys of channels by their names."""

    def add_subscription(self, subscription: Subscription, message: Schema) -> None:
        """Add the operation of a handler, and that of its dead letters."""
        operation = self._operation("receive", subscription.channel, message)
        summary, _, description = subscription.doc.partition("\n\n")
        texts = {"summary": " ".join(summary.split()), "description": description.strip()}
        operation |= {"title": subscription.name}
        operation |= {name: text for name, text in texts.items() if text}
        operation |= self._of_subscription(subscription)
        self.operations[_new_key(subscription.name, self.operations)] = operation
        if subscription.dead_letter:
            headers = {"$ref": f"#/components/schemas/{_DEAD_LETTER_KEY}"}
            letter = {**message, "name": f"{message['name']}.dead-letter", "headers": headers}
            name = f"{subscription.name}.dead_letter"
            summary = f"Publish the messages that {subscription.name} cannot handle."
            self.add_sender(subscription.dead_letter, name, summary, letter)

    def add_sender(self, channel: str, name: str, summary: str, message: Schema) -> None:
        """Add an operation that publishes messages."""
        operation = self._operation("send", channel, message) | {"summary": summary}
        self.operations[_new_key(name, self.operations)] = operation

    def _operation(self, action: str, channel: str, message: Schema) -> Schema:
        """Return an operation on a channel, and add the channel and the message to it."""
        if channel not in self._keys:
            key = self._keys[channel] = _new_key(channel, self.channels)
            purpose: Purpose = "consume" if action == "receive" else "publish"
            destination = self._destination(channel, "", purpose)
            address = None if destination is None else destination.topic
            self.channels[key] = {"address": address, "title": channel, "messages": {}}
        at = f"#/channels/{self._keys[channel]}"
        messages = self.channels[self._keys[channel]]["messages"]
        same = (key for key, other in messages.items() if other == message)
        message_key = next(same, "") or _new_key(message["name"], messages)
        messages[message_key] = message
        return {
            "action": action,
            "channel": {"$ref": at},
            "messages": [{"$ref": f"{at}/messages/{message_key}"}],
        }

    def _of_subscription(self, subscription: Subscription) -> Schema:
        """Return what an operation says about a subscription."""
        channel, name = subscription.channel, subscription.subscription
        facts: Schema = {"name": name, "order": subscription.order}
        if subscription.batch_size:
            facts["batchSize"] = subscription.batch_size
        if subscription.dead_letter:
            facts["deadLetter"] = subscription.dead_letter
        destination = self._destination(channel, name, "consume")
        described: Schema = {"x-subscription": facts}
        if destination is not None and destination.driver_url.startswith("kafka:"):
            groups = parse_qs(urlsplit(destination.driver_url).query).get("group", [name])
            group = {"type": "string", "enum": groups[-1:]}
            kafka = {"groupId": group, "bindingVersion": _KAFKA_BINDING}
            described["bindings"] = {"kafka": kafka}
        return described

    def _destination(self, channel: str, subscription: str, purpose: Purpose) -> Destination | None:
        """Return the destination of a channel; None if the settings are wrong."""
        try:
            if purpose == "publish":
                return self._destinations.for_publishing(channel)
            return self._destinations.for_consuming(channel, subscription)
        except GizmoError:
            return None


def _new_key(name: str, taken: Mapping[str, object]) -> str:
    """Return ``name`` as a key of the document that is not taken, valid in a reference as well."""
    plain = _NOT_IN_KEYS.sub("_", name)
    return next(key for key in _numbered(plain) if key not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        number += 1
        yield f"{name}_{number}"
