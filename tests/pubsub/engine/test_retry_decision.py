"""What becomes of a message whose handling failed, as a table."""

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
    """Decide about a message in its ``attempt``, with half of the longest delay drawn."""
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
def test_only_what_has_no_order_goes_back_to_a_broker_that_counts(
    order: str, can: Capabilities, expected: bool
) -> None:
    """Order, a broker that takes nothing back, and one that does not count keep it here."""
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
def test_in_place_first_then_again_by_the_broker_then_given_up(
    attempt: int, delivery: int, expected: RetryDecision
) -> None:
    """Each delivery has its attempts, the last is the end, and delays grow over all of them."""
    assert decided(ValueError(), attempt=attempt, delivery=delivery) == expected


@pytest.mark.parametrize("error", [ValueError(), Retry(), Retry(after=1)])
def test_in_place_a_round_of_attempts_counts_as_a_delivery(error: Exception) -> None:
    """With order a message is given up after as many handlings as without."""
    actions = [decided(error, attempt=n, order="key").action for n in range(1, 10)]
    retries = [Action.RETRY, Action.RETRY, Action.REDELIVER]
    assert actions == [*retries, *retries, Action.RETRY, Action.RETRY, Action.DEAD_LETTER]


def test_what_the_broker_has_delivered_before_counts_in_place_too() -> None:
    """After a crash an ordered message does not begin anew where the broker counts."""
    assert decided(ValueError(), attempt=3, delivery=3, order="key").action is Action.DEAD_LETTER


@pytest.mark.parametrize("delivery", [1, 3, 9])
@pytest.mark.parametrize(
    ("error", "reason"), [(Reject("no"), "rejected"), (UndecodableMessage("no"), "undecodable")]
)
def test_what_can_never_be_handled_is_given_up_at_once(
    error: Exception, reason: str, delivery: int
) -> None:
    """Reject and undecodable bodies are not tried again."""
    decision = decided(error, delivery=delivery)
    assert (decision.action, decision.reason) == (Action.DEAD_LETTER, reason)


@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize(("attempt", "delivery"), [(1, 1), (3, 3), (9, 99)])
def test_what_is_put_off_is_not_counted(attempt: int, delivery: int, order: str) -> None:
    """Retry(counted=False) waits in place, however often and however long."""
    error = Retry(after=4000, counted=False)
    decision = decided(error, attempt=attempt, delivery=delivery, order=order)
    assert decision == RetryDecision(Action.POSTPONE, 4000)


@pytest.mark.parametrize(("attempt", "delivery"), [(3, 3), (300, 1), (3, 300)])
@pytest.mark.parametrize("order", ["none", "key"])
def test_a_cancellation_never_gives_up(attempt: int, delivery: int, order: str) -> None:
    """It says nothing about the message."""
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
def test_who_waits_for_long_waits_at_the_broker(
    lease: float | None, after: float, action: Action
) -> None:
    """A delay above the lease, or 30 s where there is none, is not spent in place."""
    assert decided(Retry(after=after), can=capabilities(lease=lease)).action is action


def test_a_long_wait_at_the_last_delivery_gives_up() -> None:
    """There would be no other delivery to wait for."""
    assert decided(Retry(after=31), delivery=3) == (Action.DEAD_LETTER, 31, "exhausted")


def test_what_stays_waits_in_place_however_long() -> None:
    """Where a message keeps its lane, a long delay is no reason to give it back."""
    assert decided(Retry(after=4000), order="key").action is Action.RETRY


def test_a_delay_before_now_is_none() -> None:
    """Brokers take no negative seconds."""
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
    """However often a message has failed, the wait is neither negative nor above the cap."""
    decision = decided(error, attempt=attempt, delivery=delivery, order=order)
    assert 0 <= decision.delay <= POLICY.cap
