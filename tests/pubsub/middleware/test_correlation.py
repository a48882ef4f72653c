"""correlation: one id for a message and all that its handling publishes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gizmopy.observe.context import propagated_attributes
from gizmopy.pubsub import Message
from gizmopy.pubsub.middleware import correlation
from tests.pubsub.support import message, running, until


class Seen:
    """A handler that records the propagated attributes."""

    def __init__(self) -> None:
        self.carried: list[Mapping[str, str]] = []

    async def __call__(self, _: Message) -> None:
        self.carried.append(propagated_attributes.get())


async def test_the_correlation_id_is_propagated() -> None:
    """Published messages have the correlation id of the handled one."""
    seen = Seen()
    await correlation()(seen)(message(id="7", attributes={"correlation-id": "work"}))
    assert seen.carried == [{"correlation-id": "work"}]


async def test_a_message_without_one_begins_a_correlation() -> None:
    """The message's own id is used, under the configured name."""
    seen = Seen()
    await correlation("x-work")(seen)(message(id="7", attributes={"correlation-id": "other"}))
    assert seen.carried == [{"x-work": "7"}]


@pytest.mark.parametrize("work", ["", "x" * 257, "a\nb", "a\x1b[2J", "a\u202eb", "\udcff"])
async def test_an_id_that_is_unsafe_to_log_is_not_propagated(work: str) -> None:
    """An attribute that is long or not printable is ignored: the sender chooses it."""
    seen = Seen()
    await correlation()(seen)(message(id="7", attributes={"correlation-id": work}))
    assert seen.carried == [{"correlation-id": "7"}]


async def test_messages_do_not_see_each_others_correlation() -> None:
    """In a subscriber each message has its own id, beside its trace context."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen = Seen()
    async with running(correlation()(seen)) as bench:
        bench.receiver.put(
            message(id="1", attributes={"traceparent": traceparent, "correlation-id": "work"})
        )
        bench.receiver.put(message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert seen.carried == [
        {"traceparent": traceparent, "correlation-id": "work"},
        {"correlation-id": "2"},
    ]
