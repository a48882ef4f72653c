"""A decoder that fails in any way makes its message undecodable, alone; sys.exit is a failure."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel

from gizmopy import Message, RetryPolicy
from pubsubtest import FakeSubscriber
from tests.pubsub.support import message, running, until

KNOWN = {"tom": 1}


def known(name: str) -> str:
    """Return a name that is known. Raises KeyError on others, as careless validators do."""
    KNOWN[name]
    return name


class Cat(BaseModel):
    name: Annotated[str, AfterValidator(known)]


BAD, GOOD = {"name": "shy"}, {"name": "tom"}


async def test_a_validator_that_raises_fails_its_message_alone_in_a_batch() -> None:
    """The others of its batch are handled together."""
    batches: list[list[str]] = []

    async def on_cats(cats: list[Cat]) -> None:
        batches.append([cat.name for cat in cats])

    fake = FakeSubscriber(on_cats, batch_size=3, batch_wait=5, dead_letter="dead")
    one, bad, other = await fake.run([GOOD, BAD, GOOD])
    assert (one, bad, other) == ("ack", "dead_letter", "ack")
    assert batches == [["tom", "tom"]]
    assert bad.dead_letter is not None
    assert bad.dead_letter.attributes["gizmo-dl-reason"] == "undecodable"
    assert "KeyError: 'shy'" in bad.dead_letter.attributes["gizmo-dl-exception"]


async def test_a_validator_that_raises_is_not_retried() -> None:
    """A single message is dead-lettered at once, as undecodable."""

    async def on_cat(cat: Cat) -> None:
        raise AssertionError("it is not decodable")

    fake = FakeSubscriber(on_cat, dead_letter="dead")
    (bad,) = await fake.run([BAD])
    assert bad.dead_letter is not None
    assert bad.dead_letter.attributes["gizmo-dl-reason"] == "undecodable"
    assert bad.message.attempt == 1


async def test_a_fake_subscriber_waits_for_a_batch() -> None:
    """Messages that are redelivered one by one come in one batch, as with the engine."""
    sizes: list[int] = []

    async def on_texts(texts: list[str]) -> list[Exception | None]:
        sizes.append(len(texts))
        return [ValueError(text) if len(sizes) == 1 else None for text in texts]

    options: dict[str, Any] = {"batch_size": 3, "batch_wait": 5, "retry": RetryPolicy(attempts=2)}
    assert await FakeSubscriber(on_texts, **options).run(["a", "b", "c"]) == ["ack"] * 3
    assert sizes == [3, 3]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_that_exits_fails_its_message_alone(
    waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon goes on: its end would come again after each restart."""

    async def handle(received: Message) -> None:
        if received.id == "bad":
            if waits:
                await until(lambda: True)
            sys.exit(3)

    options: dict[str, Any] = {"retry": RetryPolicy(attempts=1), "max_deliveries": 1}
    async with running(handle, dead_letter=True, **options) as bench:
        bench.receiver.put(message(id="bad"), message(id="good"))
        await until(lambda: len(bench.settled) == 2)
    assert sorted(bench.outcomes) == [("bad", "dead_letter"), ("good", "ack")]
    assert "Cats.on_cat failed on message bad" in caplog.text
    assert "SystemExit: 3" in caplog.text
