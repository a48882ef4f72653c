"""The health checks of subscriptions and publishers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Channels, Subscription
from gizmopy.server.health.checks import HealthCheck

_on_demand = partial(HealthCheck, timeout=1.0, on_demand=True)


def subscription_checks(
    channels: Channels,
    subscriptions: Sequence[Subscription],
    *,
    critical: bool,
    declares: bool = False,
) -> list[HealthCheck]:
    """Return the health checks of the subscriptions; ``declares``: channels to publish to exist.

    The daemon is not ready until every broker was reached once. After that, a subscription that
    does not work makes it unready only if the subscription is critical, or if ``critical`` is true:
    an outage of the broker must not take every replica out of HTTP.
    """

    async def reached() -> None:
        if problems := channels.unreachable_brokers():
            raise PubSubError("; ".join(problems), transient=True)

    async def consumed(subscription: Subscription) -> None:
        if problem := channels.problem(subscription):
            raise PubSubError(problem, transient=True)

    async def settled(subscription: Subscription) -> None:
        if stuck := channels.stuck(subscription):
            remedy = (
                f"correct the channel {subscription.dead_letter!r}, which refuses their dead "
                "letters: the log has the reason"
                if subscription.dead_letter
                else "set dead_letter= on the subscription"
            )
            blocks = " and block those behind them" if subscription.order != "none" else ""
            raise PubSubError(f"{stuck} messages failed{blocks}; {remedy}", transient=False)

    async def has_room(subscription: Subscription) -> None:
        if problem := channels.waiting_problem(subscription):
            raise PubSubError(problem, transient=True)

    checks = [_on_demand("brokers", reached, critical=True)] if subscriptions or declares else []
    for each in subscriptions:
        name = f"{each.channel}/{each.subscription}"
        is_critical = critical or each.critical
        checks.append(_on_demand(name, partial(consumed, each), critical=is_critical))
        checks.append(_on_demand(f"{name} stuck", partial(settled, each), critical=False))
        checks.append(_on_demand(f"{name} waiting", partial(has_room, each), critical=False))
    return checks


def publisher_check(channels: Channels) -> HealthCheck:
    """Return the health check of the publishers: it fails while a broker accepts no messages.

    It is not critical: an outage of the broker must not take every replica out of HTTP.
    """

    async def publishes() -> None:
        if problems := channels.unpublished():
            raise PubSubError("; ".join(problems), transient=True)

    return _on_demand("publishers", publishes, critical=False)
