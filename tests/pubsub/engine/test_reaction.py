"""Whatever a message makes the engine do, it fails that message alone, and never the subscriber."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest

from gizmopy import Message, Reject, Retry, RetryPolicy
from gizmopy.errors import UsageError
from gizmopy.pubsub.engine.observer import Observer
from tests.pubsub.support import always, message, running, turns, until

# Wrong arguments fail where they are written.


@pytest.mark.parametrize("after", ["soon", nan, inf, True, [5], object()])
def test_a_retry_refuses_what_is_no_number_of_seconds(after: Any) -> None:
    """The error is raised in the handler, with the value."""
    with pytest.raises(UsageError, match=r"Retry\(after=.*number of seconds"):
        Retry(after=after)


@pytest.mark.parametrize(
    ("after", "seconds"),
    [(None, None), (5, 5.0), ("5s", 5.0), (-0.5, -0.5), (timedelta(minutes=1), 60.0)],
)
def test_a_retry_takes_seconds_or_a_timedelta(after: Any, seconds: float | None) -> None:
    """A time that has passed already means at once."""
    assert Retry(after=after).after == seconds


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("no cat", "no cat"),
        (ValueError("no cat"), "ValueError: no cat"),
        (ValueError(), "ValueError"),
        (404, "404"),
        (None, "None"),
        (Unprintable(), "Unprintable"),
    ],
)
def test_a_reject_takes_any_reason(reason: Any, text: str) -> None:
    """Its text is the reason."""
    assert Reject(reason).reason == text
    assert str(Reject(reason)) == text


def test_a_reject_needs_no_reason() -> None:
    """``raise Reject`` is an outcome like any other."""
    assert Reject().reason == ""


@pytest.mark.parametrize(
    "options", [{"attempts": "3"}, {"base": nan}, {"cap": inf}, {"factor": ""}]
)
def test_a_retry_policy_refuses_what_is_no_number(options: dict[str, Any]) -> None:
    """Else the first failure would end the subscriber."""
    with pytest.raises(UsageError, match=r"finite numbers|not a duration"):
        RetryPolicy(**options)


# Errors of users' classes.


class Later(Retry):
    def __init__(self, cat: str) -> None:
        self.cat = cat


class Never(Reject):
    def __init__(self, cat: str) -> None:
        self.cat = cat


class OddLater(Retry):
    def __init__(self) -> None:
        self.after = "5"  # type: ignore[assignment]  # that is the fault


class Broken(Retry):
    @property
    def counted(self) -> bool:  # type: ignore[override]  # that is the fault
        raise KeyError("counted")

    def __init__(self) -> None:
        pass


class NoText(ValueError):
    def __str__(self) -> str:
        raise KeyError("text")


class TextIsNone(ValueError):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # that is the fault


class Claims(ValueError):
    @property  # type: ignore[misc]  # that is the fault
    def __class__(self) -> type:
        raise KeyError("class")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Later("tom"), "exhausted"),
        (Never("tom"), "rejected"),
        (OddLater(), "exhausted"),
        (Broken(), "exhausted"),
        (NoText("tom"), "exhausted"),
        (TextIsNone("tom"), "exhausted"),
        (Claims("tom"), "exhausted"),
        (Reject(ValueError()), "ValueError"),
        (Reject(Unprintable()), "Unprintable"),
        (GeneratorExit("tom"), "exhausted"),
        (StopIteration("tom"), "exhausted"),
        (StopAsyncIteration("tom"), "exhausted"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else each,
)
@pytest.mark.parametrize("order", ["none", "key"])
async def test_an_odd_error_fails_its_message_alone(
    error: BaseException, reason: str, order: str
) -> None:
    """The message is dead-lettered like any other, and the next one is handled."""
    fails = always(error)

    async def handle(received: Message) -> None:
        if received.id == "bad":
            await fails(received)

    options: dict[str, Any] = {
        "retry": RetryPolicy(attempts=2),
        "max_deliveries": 1,
        "order": order,
    }
    async with running(handle, dead_letter=True, **options) as bench:
        bench.receiver.put(message(id="bad", key="k"), message(id="good", key="k"))
        await until(lambda: len(bench.settled) == 2)
        assert sorted(bench.outcomes) == [("bad", "dead_letter"), ("good", "ack")]
        assert bench.dead[0].attributes["gizmo-dl-reason"] == reason
        assert bench.task is not None
        assert not bench.task.done()


async def test_a_subclass_without_its_base_init_keeps_the_defaults() -> None:
    """A Retry by the policy, counted."""
    assert (Later("tom").after, Later("tom").counted) == (None, True)
    assert Never("tom").reason == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "attempt", "one"),
        lambda m: setattr(m, "attempt", None),
        lambda m: setattr(m, "delivery", "one"),
        lambda m: setattr(m, "attributes", None),
        lambda m: setattr(m, "attributes", [1]),
        lambda m: setattr(m, "body", 1),
        lambda m: setattr(m, "key", 1),
    ],
    ids=["attempt", "no attempt", "delivery", "no attributes", "attributes", "body", "key"],
)
@pytest.mark.parametrize("order", ["none", "key"])
async def test_a_handler_that_breaks_its_message_ends_no_subscriber(
    change: Any, order: str
) -> None:
    """The message waits to be handled again, and the next one is handled."""

    async def handle(received: Message) -> None:
        if received.id == "bad":
            change(received)
            raise ValueError

    options: dict[str, Any] = {"retry": RetryPolicy(attempts=3), "order": order}
    async with running(handle, dead_letter=True, **options) as bench:
        bench.receiver.put(message(id="bad", key="a"), message(id="good", key="b"))
        await until(lambda: ("good", "ack") in bench.outcomes)
        await turns()
        assert bench.task is not None
        assert not bench.task.done()
        await bench.subscriber.drain(0)


# Observers.


class Failing(Observer):
    def received(self, messages: Sequence[Message]) -> None:
        raise KeyError("received")

    def attempt_started(self, messages: Sequence[Message]) -> None:
        raise KeyError("started")

    def attempt_ended(
        self, messages: Sequence[Message], errors: Sequence[BaseException | None]
    ) -> None:
        raise KeyError("ended")

    def retried(self, message: Message, error: BaseException, delay: float) -> None:
        raise KeyError("retried")

    def dead_lettered(self, message: Message, reason: str, error: BaseException) -> None:
        raise KeyError("dead_lettered")

    def settled(
        self, messages: Sequence[Message], outcome: str, error: BaseException | None
    ) -> None:
        raise KeyError("settled")


async def test_an_observer_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its first error of each event is logged, with its name."""

    async def handle(received: Message) -> None:
        if received.id == "bad":
            raise ValueError("bad")

    options: dict[str, Any] = {
        "retry": RetryPolicy(attempts=2),
        "max_deliveries": 1,
        "observers": [Failing()],
    }
    async with running(handle, dead_letter=True, **options) as bench:
        bench.receiver.put(message(id="bad"), message(id="good"), message(id="good"))
        await until(lambda: len(bench.settled) == 3)
    observed = [r for r in caplog.records if r.name == "gizmopy.pubsub.observers"]
    assert sorted(record.args[0].rpartition(".")[2] for record in observed) == [  # type: ignore[index,union-attr]
        "attempt_ended",
        "attempt_started",
        "dead_lettered",
        "received",
        "retried",
        "settled",
    ]
    assert all(record.levelno == logging.ERROR and record.exc_info for record in observed)
