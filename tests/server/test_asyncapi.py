"""The AsyncAPI document of a service. Its rules are those of the official JSON schema of 3.0.0."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field

from gizmopy import Message, Service, get, subscribe
from gizmopy.config import Settings
from gizmopy.pubsub import collect_subscriptions
from gizmopy.pubsub.destinations import DestinationResolver
from gizmopy.server.asyncapi import asyncapi_document
from gizmopy.server.service import declared_channels
from pubsubtest import serve

MEMBERS = {
    "document": "asyncapi id info servers defaultContentType channels operations components",
    "info": "title version description termsOfService contact license tags externalDocs",
    "channel": "address messages parameters title summary description servers tags externalDocs "
    "bindings",
    "message": "contentType headers payload correlationId tags summary name title description "
    "externalDocs deprecated examples bindings traits",
    "operation": "action channel messages reply traits title summary description security tags "
    "externalDocs bindings",
    "components": "schemas servers channels serverVariables operations messages securitySchemes "
    "parameters correlationIds operationTraits messageTraits replies replyAddresses tags "
    "externalDocs serverBindings channelBindings operationBindings messageBindings",
    "correlationId": "description location",
    "kafka": "groupId clientId bindingVersion",
}
"""The members that the official schema allows in each object, besides ``x-…``."""
REQUIRED = {
    "document": "asyncapi info",
    "info": "title version",
    "operation": "action channel",
    "correlationId": "location",
}


def require_valid(document: dict[str, Any]) -> None:
    """Require what the official schema requires of each part that we write."""
    _require("document", document)
    assert document["asyncapi"] == "3.0.0"
    _require("info", document["info"])
    _require("components", document["components"])
    for each in document["components"]["correlationIds"].values():
        _require("correlationId", each)
        assert re.match(r"^\$message\.(header|payload)#(/[^/]+)*$", each["location"])
    for key in document["components"]["schemas"]:
        assert re.fullmatch(r"[\w.-]+", key)
    for channel in document["channels"].values():
        _require("channel", channel)
        assert isinstance(channel["address"], str) or channel["address"] is None
        for message in channel["messages"].values():
            _require("message", message)
    for operation in document["operations"].values():
        _require("operation", operation)
        assert operation["action"] in ("send", "receive")
        for each in operation["messages"]:
            # The parser of AsyncAPI demands a message of the operation's own channel.
            assert each["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")
        for name, binding in operation.get("bindings", {}).items():
            _require(name, binding)
            assert binding["bindingVersion"] in ("0.5.0", "0.4.0", "0.3.0")
    for reference in _references(document):
        assert _resolved(document, reference) is not None
    # Draft 7 has no prefixItems, and the discriminator of AsyncAPI is a text.
    assert '"prefixItems"' not in json.dumps(document)
    assert '"discriminator": {' not in json.dumps(document)


def _require(kind: str, given: dict[str, Any]) -> None:
    names = {name for name in given if not re.fullmatch(r"x-[\w.-]+", name)}
    assert names <= set(MEMBERS[kind].split()), kind
    assert set(REQUIRED.get(kind, "").split()) <= given.keys()


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _resolved(document: Any, reference: str) -> Any:
    start, *names = reference.split("/")
    assert start == "#"
    for name in names:
        document = document[name]
    return document


class Lion(BaseModel):
    kind: Literal["lion"]


class Tiger(BaseModel):
    kind: Literal["tiger"]


class Cat(BaseModel):
    """A cat."""

    name: str
    place: tuple[int, str] = (0, "")
    kittens: list[Cat] = []


class Unknown:
    """A type that pydantic has no schema for."""


Feline = Annotated[Lion | Tiger, Field(discriminator="kind")]


class Cats(Service):
    """Handle cats."""

    publishes: ClassVar = {
        "cats": Cat,
        "audit": None,
        "raw": bytes,
        "texts": str,
        "cats/born": Cat | None,
        "felines": Feline,
    }

    @subscribe("cats", dead_letter="dead", order="key")
    async def on_cat(self, cat: Cat) -> None:
        """Store a cat.

        The rest is the description.
        """

    @subscribe("dogs", subscription="other", dead_letter="dead", batch_size=5)
    async def on_dogs(self, dogs: list[dict[str, int] | None]) -> None: ...

    @subscribe("dead")
    async def on_dead(self, message: Message) -> None: ...

    @subscribe("raw")
    async def on_bytes(self, body: bytes | None) -> None: ...

    @subscribe("texts")
    async def on_text(self, text: str) -> None: ...


def document_of(service: type[Service] = Cats, url: str = "memory://", **topics: str) -> Any:
    """Return the document of a service."""
    made = service(Settings())
    return asyncapi_document(
        collect_subscriptions(made, "cats"),
        declared_channels(made, ()),
        title="cats",
        version="1",
        destinations=DestinationResolver(url, topics, {}),
    )


def message_of(document: Any, operation: str) -> Any:
    """Return the only message of an operation."""
    (reference,) = document["operations"][operation]["messages"]
    return _resolved(document, reference["$ref"])


def test_the_document_is_valid() -> None:
    """Every part has the members that AsyncAPI 3.0 allows, and every reference leads somewhere."""
    require_valid(document_of())


def test_each_subscription_and_each_declared_channel_is_an_operation() -> None:
    """A service receives what it handles, and sends what it declares and its dead letters."""
    document = document_of()
    actions = {name: each["action"] for name, each in document["operations"].items()}
    assert actions == {
        "Cats.on_cat": "receive",
        "Cats.on_cat.dead_letter": "send",
        "Cats.on_dogs": "receive",
        "Cats.on_dogs.dead_letter": "send",
        "Cats.on_dead": "receive",
        "Cats.on_bytes": "receive",
        "Cats.on_text": "receive",
        "publish.cats": "send",
        "publish.audit": "send",
        "publish.raw": "send",
        "publish.texts": "send",
        "publish.cats_born": "send",
        "publish.felines": "send",
    }
    on_cat = document["operations"]["Cats.on_cat"]
    assert on_cat["summary"] == "Store a cat."
    assert on_cat["description"] == "The rest is the description."
    facts = {"name": "cats", "order": "key", "deadLetter": "dead"}
    assert on_cat["x-subscription"] == facts
    assert document["operations"]["Cats.on_dogs"]["x-subscription"]["batchSize"] == 5


@pytest.mark.parametrize(
    ("operation", "content_type", "payload"),
    [
        ("Cats.on_cat", "application/json", {"$ref": "#/components/schemas/Cat-Input"}),
        ("publish.cats", "application/json", {"$ref": "#/components/schemas/Cat-Output"}),
        ("Cats.on_bytes", "application/octet-stream", None),
        ("Cats.on_text", "text/plain; charset=utf-8", {"type": "string"}),
        ("Cats.on_dead", None, None),
        ("publish.audit", None, None),
    ],
)
def test_a_message_has_its_content_type_and_its_schema(
    operation: str, content_type: str | None, payload: Any
) -> None:
    """What is received is described as it is validated, what is sent as it is written."""
    message = message_of(document_of(), operation)
    assert message.get("contentType") == content_type
    assert message.get("payload") == payload


def test_the_items_of_a_batch_are_its_messages() -> None:
    """A batch handler receives messages one by one, as far as others can see."""
    message = message_of(document_of(), "Cats.on_dogs")
    assert message["payload"]["anyOf"][0]["additionalProperties"] == {"type": "integer"}
    assert message["name"] == "dict[str, int]"


def test_tuples_and_unions_are_written_in_the_dialect_of_asyncapi() -> None:
    """A tuple has a list of items; the discriminator, which repeats the union, is left out."""
    document = document_of()
    place = document["components"]["schemas"]["Cat-Input"]["properties"]["place"]
    assert place["items"] == [{"type": "integer"}, {"type": "string"}]
    assert message_of(document, "publish.felines")["payload"].keys() == {"oneOf"}


def test_a_dead_letter_has_the_message_and_the_attributes_of_the_failure() -> None:
    """Its headers are those that the engine writes."""
    document = document_of()
    letter = message_of(document, "Cats.on_cat.dead_letter")
    assert letter["payload"] == {"$ref": "#/components/schemas/Cat-Input"}
    headers = _resolved(document, letter["headers"]["$ref"])
    assert headers["properties"].keys() >= {"gizmo-dl-reason", "gizmo-dl-source-topic"}


def test_channels_have_the_topics_of_the_settings_and_no_hosts() -> None:
    """Anybody who reaches the service may read the document."""
    url = "kafka://user:secret@broker-1:9092?group=g&sasl_mechanism=PLAIN"
    document = document_of(url=url, CATS="kafka://other:9092/animals.cats")
    assert document["channels"]["cats"]["address"] == "animals.cats"
    assert document["channels"]["cats_born"]["address"] == "cats/born"
    text = json.dumps(document)
    assert not any(word in text for word in ("secret", "user", "broker-1", "other:", "9092"))
    bindings = {
        name: each["bindings"]["kafka"]["groupId"]["enum"]
        for name, each in document["operations"].items()
        if "bindings" in each
    }
    assert bindings["Cats.on_cat"] == ["cats"]
    assert bindings["Cats.on_dead"] == ["g"]
    require_valid(document)


def test_a_type_without_a_schema_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the document is there, and the log has the reason."""

    class Odd(BaseModel, arbitrary_types_allowed=True):
        unknown: Unknown

    class Odds(Service):
        publishes: ClassVar = {"odd": Odd, "cats": Cat}

    document = document_of(Odds)
    require_valid(document)
    assert "payload" not in message_of(document, "publish.odd")
    assert "payload" in message_of(document, "publish.cats")
    assert "publishes['odd'] has no schema" in caplog.text


async def test_it_is_served_once_a_service_has_messages() -> None:
    """Without endpoints of its own, too."""
    async with serve(Cats) as cats, cats.http.get("/asyncapi.json") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        require_valid(await response.json())
    await asyncio.get_running_loop().shutdown_default_executor()  # it wrote the document


class Quiet(Service):
    @get("/")
    async def root(self) -> int:
        return 1


async def test_it_is_not_served_without_messages() -> None:
    """A service of endpoints alone has nothing to describe there."""
    async with serve(Quiet) as quiet, quiet.http.get("/asyncapi.json") as response:
        assert response.status == 404


async def test_it_can_be_turned_off() -> None:
    """GIZMO_OPENAPI=false turns it off, as it does the OpenAPI document."""
    off = serve(Cats, settings=Settings(openapi=False))
    async with off as cats, cats.http.get("/asyncapi.json") as response:
        assert response.status == 404
