"""Observers: which methods are bound, in which order they are called, and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from gizmopy.errors import Reject
from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.observer import Observer, Observers, SettleCallback
from gizmopy.pubsub.handlers import BatchResults
from tests.pubsub.support import Gate, failing, held, lose_lease, message, nothing, running, until


class _Recorder(Observer):
    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def received(self, messages: Sequence[Message]) -> None:
        self._log.append(f"{self._name} received {len(messages)}")


def test_every_observer_that_overrides_an_event_receives_it_in_order() -> None:
    """Two observers of one event are called in the order in which they were given."""
    log: list[str] = []
    observers = Observers([_Recorder("first", log), Observer(), _Recorder("second", log)])
    observers.received([message(), message()])
    assert log == ["first received 2", "second received 2"]


def test_a_single_observer_is_called_without_a_function_in_between() -> None:
    """The engine's own metrics cost no additional call; other observers have a guard."""

    class Metrics(_Recorder):
        never_raises = True

    recorder = Metrics("only", [])
    assert Observers([Observer(), recorder]).received == recorder.received


def test_an_event_that_no_observer_overrides_is_ignored() -> None:
    """It may be reported without an effect."""
    Observers([_Recorder("other", [])]).lost(message())


def test_attempts_are_reported_only_if_an_observer_overrides_them() -> None:
    """Otherwise the handlers are called directly."""

    class Ends(Observer):
        def attempt_ended(
            self, messages: Sequence[Message], errors: Sequence[BaseException | None]
        ) -> None:
            pass

    assert not Observers([_Recorder("other", [])]).watch_attempts
    assert Observers([Ends()]).watch_attempts


def test_on_settle_is_called_for_each_message_that_is_settled_or_lost() -> None:
    """The callback of a subscriber is an observer of two events."""
    calls: list[tuple[str, str, BaseException | None]] = []
    error = ValueError()
    callback = SettleCallback(lambda m, outcome, error: calls.append((m.id, outcome, error)))
    callback.settled([message(id="1"), message(id="2")], "ack", None)
    callback.settled([message(id="3")], "nack", error)
    callback.lost(message(id="4"))
    assert calls == [
        ("1", "ack", None),
        ("2", "ack", None),
        ("3", "nack", error),
        ("4", "lost", None),
    ]


_SPAN: ContextVar[str] = ContextVar("span", default="none")


class _Log(Observer):
    """Logs the events of a subscriber, and sets a context variable for each attempt."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def received(self, messages: Sequence[Message]) -> None:
        self.events.append(f"received {_ids(messages)}")

    def attempt_started(self, messages: Sequence[Message]) -> None:
        _SPAN.set(f"of {_ids(messages)}")
        self.events.append(f"started {_ids(messages)}")

    def attempt_ended(
        self, messages: Sequence[Message], errors: Sequence[BaseException | None]
    ) -> None:
        self.events.append(f"ended {_ids(messages)} {list(errors)!r} in span {_SPAN.get()}")

    def retried(self, message: Message, error: BaseException, delay: float) -> None:
        self.events.append(f"retried {message.id}")

    def dead_lettered(self, message: Message, reason: str, error: BaseException) -> None:
        self.events.append(f"dead-lettered {message.id} {reason}")

    def settled(
        self, messages: Sequence[Message], outcome: str, error: BaseException | None
    ) -> None:
        self.events.append(f"settled {_ids(messages)} {outcome}")

    def lost(self, message: Message) -> None:
        self.events.append(f"lost {message.id}")

    def stale(self, message: Message) -> None:
        self.events.append(f"stale {message.id}")


def _ids(messages: Sequence[Message]) -> str:
    return "+".join(each.id for each in messages)


async def test_an_observer_receives_the_events_of_a_message_in_their_order() -> None:
    """A failure, its retry and its dead letter are events between the receipt and the settle."""
    log = _Log()
    errors = failing(ValueError("no"), Reject("never"))
    async with running(errors, observers=[log], dead_letter=True) as bench:
        bench.receiver.put(message())
        await until(lambda: bench.settled)
    assert log.events == [
        "received 1",
        "started 1",
        "ended 1 [ValueError('no')] in span of 1",
        "retried 1",
        "started 1",
        "ended 1 [Reject('never')] in span of 1",
        "dead-lettered 1 rejected",
        "settled 1 dead_letter",
    ]


async def test_an_attempt_is_observed_in_the_context_of_its_handler() -> None:
    """A context variable that an observer sets is seen by the handler, and by no other one."""
    log, spans = _Log(), []

    async def handler(_: Message) -> None:
        spans.append(_SPAN.get())

    async with running(handler, observers=[log]) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: len(bench.settled) == 2)
    assert spans == ["of 1", "of 2"]
    assert _SPAN.get() == "none"


async def test_an_attempt_of_a_batch_is_observed_once_for_all_of_its_messages() -> None:
    """Its errors are the results of the batch handler."""
    log, error = _Log(), ValueError("no")

    async def handler(batch: Sequence[Message]) -> BatchResults:
        return [error if each.id == "2" else None for each in batch]

    async with running(nothing, observers=[log], batch_handler=handler, batch_size=2) as bench:
        bench.receiver.put(message(id="1"), message(id="2"))
        await until(lambda: bench.metric("retries"))
    assert log.events[:3] == [
        "received 1+2",
        "started 1+2",
        "ended 1+2 [None, ValueError('no')] in span of 1+2",
    ]


async def test_an_observer_receives_the_loss_of_a_message() -> None:
    """The end of its handler is stale, and it is not settled."""
    log, gate = _Log(), Gate()
    async with running(gate, observers=[log]) as bench:
        bench.receiver.put(message())
        await until(lambda: gate.started)
        lose_lease(bench.subscriber, held(bench.subscriber)[0])
        gate.open.set()
        await until(lambda: bench.metric("stale_settles"))
    assert log.events[2:] == ["lost 1", "ended 1 [None] in span of 1", "stale 1"]
