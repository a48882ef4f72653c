"""Observers: which methods are bound, in which order they are called, and their cost."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.pubsub import Message
from gizmopy.pubsub.engine.observer import Observer, Observers, SettleCallback
from tests.pubsub.support import message


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
    """Its method is bound itself, so that metrics alone cost no additional call."""
    recorder = _Recorder("only", [])
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
