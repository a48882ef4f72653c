"""@subscribe: the declarations that a service may make, and the errors for mistakes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

from gizmopy.errors import DeclarationError, UndecodableMessage
from gizmopy.pubsub import Message, RetryPolicy, collect_subscriptions, subscribe

Method = Callable[..., Coroutine[Any, Any, None]]


class Cat(BaseModel):
    name: str


class Opaque:
    """A type that pydantic does not know."""


class Cats:
    def __init__(self) -> None:
        self.got: list[object] = []

    @subscribe("cats", concurrency=200, order="key", dead_letter="dead")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        self.got.append((cat, message.id))

    @subscribe("raw", subscription="own", retry=RetryPolicy(attempts=1))
    async def on_raw(self, message: Message) -> None:
        self.got.append(message.id)

    @subscribe("gone")
    async def on_gone(self, message: Message, cat: Cat | None) -> None:
        self.got.append((cat, message.id))

    @subscribe("bytes")
    async def on_bytes(self, *, body: bytes) -> None:
        self.got.append(body)


async def handle(service: Cats, channel: str, body: bytes | None) -> None:
    """Handle one message as the engine does."""
    (found,) = [s for s in collect_subscriptions(service, "cats") if s.channel == channel]
    await found.handler(Message("t", body, id="7"))


def test_subscriptions_are_collected_in_the_order_of_the_source() -> None:
    """Each has its options, its name, and the service's name as the default subscription."""
    cats, raw, gone, body = collect_subscriptions(Cats(), "svc")
    assert [s.channel for s in (cats, raw, gone, body)] == ["cats", "raw", "gone", "bytes"]
    assert (cats.name, cats.subscription, cats.order) == ("Cats.on_cat", "svc", "key")
    assert (cats.concurrency, cats.max_in_flight, cats.dead_letter) == (200, 200, "dead")
    assert (raw.subscription, raw.max_in_flight, raw.retry.attempts) == ("own", 100, 1)
    assert (cats.payload, raw.payload, body.payload) == (Cat, None, bytes)


async def test_a_handler_gets_the_parameters_that_it_declares() -> None:
    """Payload and Message, in any order, by name, decoded to the declared type."""
    service = Cats()
    await handle(service, "cats", b'{"name": "Tom"}')
    await handle(service, "raw", b"\xff")
    await handle(service, "gone", b'{"name": "Tom"}')
    await handle(service, "gone", None)
    await handle(service, "bytes", b"\xff")
    tom = Cat(name="Tom")
    assert service.got == [(tom, "7"), "7", (tom, "7"), (None, "7"), b"\xff"]


@pytest.mark.parametrize("body", [b'{"name": 1}', None])
async def test_an_undecodable_body_is_found_before_the_handler_runs(body: bytes | None) -> None:
    """A wrong body is undecodable, and so is a tombstone if None is not accepted."""
    service = Cats()
    with pytest.raises(UndecodableMessage):
        await handle(service, "cats", body)
    assert service.got == []


async def test_an_override_without_a_decorator_keeps_the_subscription() -> None:
    """The options are those of the base, the code and the signature those of the override."""

    class Louder(Cats):
        async def on_cat(self, cat: dict[str, str]) -> None:  # type: ignore[override]  # own type
            self.got.append(cat)

    service = Louder()
    assert len(collect_subscriptions(service, "s")) == 4
    await handle(service, "cats", b'{"name": "Tom"}')
    assert service.got == [{"name": "Tom"}]


def test_an_override_with_a_decorator_replaces_the_subscription() -> None:
    """The nearest declaration counts, and the base's does not."""

    class Other(Cats):
        @subscribe("other")
        async def on_cat(self, message: Message) -> None:  # type: ignore[override]  # own type
            pass

    channels = [s.channel for s in collect_subscriptions(Other(), "s")]
    assert channels == ["other", "raw", "gone", "bytes"]


def test_an_override_by_none_ends_the_subscription() -> None:
    """A subclass removes an inherited subscription by None."""

    class Deaf(Cats):
        on_cat = None  # type: ignore[assignment]  # that is the way

    assert [s.channel for s in collect_subscriptions(Deaf(), "s")] == ["raw", "gone", "bytes"]


def test_one_method_may_handle_two_channels() -> None:
    """Decorators stack, in the order of the source."""

    class Both:
        @subscribe("a")
        @subscribe("b")
        async def on(self, message: Message) -> None:
            pass

    assert [s.channel for s in collect_subscriptions(Both(), "s")] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"concurrency": 0}, "concurrency=0 would run no handler"),
        ({"order": "keys"}, "order='keys' does not exist"),
        ({"concurrency": 5, "max_in_flight": 4}, "max_in_flight=4 is too small for concurrency=5"),
        ({"max_deliveries": 0}, "max_deliveries=0"),
        ({"dead_letter": "cats"}, "would return forever"),
    ],
)
def test_invalid_options_are_refused_with_file_and_line(
    options: dict[str, Any], reason: str
) -> None:
    """The error names file, line, method, value and remedy."""
    with pytest.raises(DeclarationError, match=reason) as caught:

        @subscribe("cats", **options)
        async def on_cat(message: Message) -> None:
            pass

    assert "test_subscription.py:" in str(caught.value)
    assert "on_cat" in str(caught.value)


def test_a_subscription_needs_a_channel() -> None:
    """An empty name is not a channel."""
    with pytest.raises(DeclarationError, match="name of a channel"):

        @subscribe("")
        async def on_cat(message: Message) -> None:
            pass


async def nothing(self: object) -> None:
    """Take no parameters."""


async def two_payloads(self: object, a: Cat, b: Cat) -> None:
    """Take two payloads."""


async def two_messages(self: object, a: Message, b: Message) -> None:
    """Take two messages."""


async def no_codec(self: object, a: Opaque) -> None:
    """Take a type that no codec knows."""


async def no_type(self: object, a) -> None:  # type: ignore[no-untyped-def]  # that is the test
    """Take a payload without a type."""


def not_async(self: object, a: Cat) -> None:
    """Is not a coroutine function."""


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (nothing, "has no parameters"),
        (two_payloads, "'a' and 'b' both take the payload"),
        (two_messages, "takes the Message twice"),
        (no_codec, "parameter 'a': Opaque has no codec"),
        (no_type, "parameter 'a' has no type"),
        (not_async, "is not async"),
    ],
)
def test_signatures_that_cannot_be_served_are_refused(method: Method, reason: str) -> None:
    """The error names file, line, method and remedy, before anything starts."""
    service = type("Bad", (), {"method": subscribe("cats")(method)})()
    with pytest.raises(DeclarationError, match=reason) as caught:
        collect_subscriptions(service, "s")
    assert f"test_subscription.py:{method.__code__.co_firstlineno}" in str(caught.value)


def test_two_handlers_of_one_subscription_are_refused() -> None:
    """Each would get some of the messages; other subscriptions of the channel are allowed."""

    class Twins:
        @subscribe("cats")
        async def one(self, message: Message) -> None:
            pass

        @subscribe("cats", subscription="other")
        async def other(self, message: Message) -> None:
            pass

        @subscribe("cats", subscription="s")
        async def two(self, message: Message) -> None:
            pass

    assert len(collect_subscriptions(Twins(), "default")) == 3
    with pytest.raises(DeclarationError, match=r"two: .*Twins.one \(.*already handles 'cats'"):
        collect_subscriptions(Twins(), "s")
