"""The decision about a failed message, as a table."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gizmopy.errors import Reject, Retry, UndecodableMessage
from gizmopy.pubsub import Capabilities, Message, RetryPolicy
from gizmopy.pubsub.engine.retry_decision import Action, RetryDecision, decide, retries_in_place
from tests.pubsub.support import capabilities, message, nothing, subscription_of

POLICY = RetryPolicy(attempts=3, base=8, factor=2, cap=100)


def decided(
    error: BaseException,
    *,
    attempt: int = 1,
    delivery: int = 1,
    can: Capabilities | None = None,
    **options: Any,
) -> RetryDecision:
    """Decide about a message in its ``attempt``; the jitter is half of its range."""
    received: Message = message(delivery=delivery)
    received.attempt = attempt
    subscription = subscription_of(nothing, **{"retry": POLICY, "max_deliveries": 3} | options)
    return decide(received, error, subscription, can or capabilities(), lambda: 0.5)


@pytest.mark.parametrize(
    ("order", "can", "expected"),
    [
        ("none", capabilities(), False),
        ("key", capabilities(), True),
        ("partition", capabilities(), True),
        ("none", capabilities(can_nack=False), True),
        ("none", capabilities(delivery_count=False), True),
    ],
)
def test_only_unordered_messages_go_back_to_a_broker_that_counts(
    order: str, can: Capabilities, expected: bool
) -> None:
    """With order, without nack, or without a delivery count, retries run in place."""
    assert retries_in_place(subscription_of(nothing, order=order), can) is expected


@pytest.mark.parametrize(
    ("attempt", "delivery", "expected"),
    [
        (1, 1, RetryDecision(Action.RETRY, 4)),
        (2, 1, RetryDecision(Action.RETRY, 8)),
        (3, 1, RetryDecision(Action.REDELIVER, 16)),
        (1, 2, RetryDecision(Action.RETRY, 8)),
        (3, 2, RetryDecision(Action.REDELIVER, 32)),
        (1, 3, RetryDecision(Action.RETRY, 16)),
        (3, 3, RetryDecision(Action.DEAD_LETTER, 50, "exhausted")),
        (3, 4, RetryDecision(Action.DEAD_LETTER, 50, "exhausted")),
    ],
)
def test_retries_are_followed_by_redelivery_and_a_dead_letter(
    attempt: int, delivery: int, expected: RetryDecision
) -> None:
    """Each delivery has its attempts, and delays grow over all of them."""
    assert decided(ValueError(), attempt=attempt, delivery=delivery) == expected


@pytest.mark.parametrize("error", [ValueError(), Retry(), Retry(after=1)])
def test_in_place_a_round_of_attempts_counts_as_a_delivery(error: Exception) -> None:
    """An ordered message has as many attempts as an unordered one."""
    actions = [decided(error, attempt=n, order="key").action for n in range(1, 10)]
    retries = [Action.RETRY, Action.RETRY, Action.REDELIVER]
    assert actions == [*retries, *retries, Action.RETRY, Action.RETRY, Action.DEAD_LETTER]


def test_earlier_deliveries_count_in_place_too() -> None:
    """After a crash an ordered message does not start from zero, if the broker counts."""
    assert decided(ValueError(), attempt=3, delivery=3, order="key").action is Action.DEAD_LETTER


@pytest.mark.parametrize("delivery", [1, 3, 9])
@pytest.mark.parametrize(
    ("error", "reason"), [(Reject("no"), "rejected"), (UndecodableMessage("no"), "undecodable")]
)
def test_reject_and_undecodable_messages_are_dead_lettered_at_once(
    error: Exception, reason: str, delivery: int
) -> None:
    """They are not retried."""
    decision = decided(error, delivery=delivery)
    assert (decision.action, decision.reason) == (Action.DEAD_LETTER, reason)


@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize(("attempt", "delivery"), [(1, 1), (3, 3), (9, 99)])
def test_a_postponed_message_is_not_counted(attempt: int, delivery: int, order: str) -> None:
    """Retry(counted=False) waits in place, however often and however long."""
    error = Retry(after=4000, counted=False)
    decision = decided(error, attempt=attempt, delivery=delivery, order=order)
    assert decision == RetryDecision(Action.POSTPONE, 4000)


@pytest.mark.parametrize(("attempt", "delivery"), [(3, 3), (300, 1), (3, 300)])
@pytest.mark.parametrize("order", ["none", "key"])
def test_a_cancellation_never_leads_to_a_dead_letter(
    attempt: int, delivery: int, order: str
) -> None:
    """It is not a fault of the message."""
    error = asyncio.CancelledError()
    decision = decided(error, attempt=attempt, delivery=delivery, order=order)
    assert decision.action is Action.REDELIVER


@pytest.mark.parametrize(
    ("lease", "after", "action"),
    [
        (20, 20, Action.RETRY),
        (20, 21, Action.REDELIVER),
        (None, 30, Action.RETRY),
        (None, 31, Action.REDELIVER),
    ],
)
def test_a_long_wait_is_spent_at_the_broker(
    lease: float | None, after: float, action: Action
) -> None:
    """A delay above the lease, or above 30 s without leases, is not spent in place."""
    assert decided(Retry(after=after), can=capabilities(lease=lease)).action is action


def test_a_long_wait_at_the_last_delivery_leads_to_a_dead_letter() -> None:
    """There is no other delivery to wait for."""
    assert decided(Retry(after=31), delivery=3) == (Action.DEAD_LETTER, 31, "exhausted")


def test_an_ordered_message_waits_in_place_however_long() -> None:
    """It keeps its lane, so it is not given back."""
    assert decided(Retry(after=4000), order="key").action is Action.RETRY


def test_a_delay_is_never_negative() -> None:
    """Brokers accept no negative seconds."""
    assert decided(Retry(after=0)).delay == 0


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.sampled_from([ValueError(), Retry(), Retry(counted=False), asyncio.CancelledError()]),
    st.sampled_from(["none", "key"]),
)
def test_a_delay_is_within_the_policy(
    attempt: int, delivery: int, error: BaseException, order: str
) -> None:
    """However often a message has failed, the delay is neither negative nor above the cap."""
    decision = decided(error, attempt=attempt, delivery=delivery, order=order)
    assert 0 <= decision.delay <= POLICY.cap


def _group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("unhandled errors in a TaskGroup", errors)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([Reject("no")], Reject("no")),
        ([Retry(after=7)], Retry(after=7)),
        ([Retry(after=7, counted=False)], Retry(after=7, counted=False)),
        ([UndecodableMessage("bad")], UndecodableMessage("bad")),
        ([ValueError(), KeyError()], ValueError()),
        ([asyncio.CancelledError()], asyncio.CancelledError()),
        ([_group(_group(Reject("no")))], Reject("no")),
        ([ValueError(), _group(Retry(after=7), Reject("no"))], Reject("no")),
        ([Retry(after=7), ValueError()], ValueError()),
        ([Retry(after=7, counted=False), Retry(after=5)], Retry(after=5)),
        ([Retry(after=5), Retry(after=7), Retry()], Retry(after=7)),
        ([asyncio.CancelledError(), Retry(after=7, counted=False)], Retry(after=7, counted=False)),
    ],
)
@pytest.mark.parametrize("attempt", [1, 3])
def test_of_a_group_the_gravest_error_counts(
    members: list[BaseException], expected: BaseException, attempt: int
) -> None:
    """A task group raises the errors of its tasks as a group."""
    for delivery in (1, 3):
        decision = decided(_group(*members), attempt=attempt, delivery=delivery)
        assert decision == decided(expected, attempt=attempt, delivery=delivery)


def test_a_deeply_nested_group_is_looked_through() -> None:
    """Its depth is no limit: Python's recursion would be."""
    error: BaseException = Reject("no")
    for _ in range(5000):
        error = _group(error)
    assert decided(error).action is Action.DEAD_LETTER
