"""The health checks of subscriptions and publishers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gizmopy.errors import PubSubError
from gizmopy.pubsub import Channels, Subscription
from gizmopy.server.health.checks import HealthCheck

_on_demand = partial(HealthCheck, timeout=1.0, on_demand=True)


def subscription_checks(
    channels: Channels, subscriptions: Sequence[Subscription], *, critical: bool
) -> list[HealthCheck]:
    """Return the health checks of the subscriptions.

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

    async def in_order(subscription: Subscription) -> None:
        if stuck := channels.stuck(subscription):
            reason = (
                f"{stuck} messages failed and block those behind them in order; "
                "set dead_letter= on the subscription"
            )
            raise PubSubError(reason, transient=False)

    checks = [_on_demand("brokers", reached, critical=True)] if subscriptions else []
    for each in subscriptions:
        name = f"{each.channel}/{each.subscription}"
        is_critical = critical or each.critical
        checks.append(_on_demand(name, partial(consumed, each), critical=is_critical))
        if each.order != "none" and not each.dead_letter:
            checks.append(_on_demand(f"{name} order", partial(in_order, each), critical=False))
    return checks


def publisher_check(channels: Channels) -> HealthCheck:
    """Return the health check of the publishers: it fails while a broker accepts no messages.

    It is not critical: an outage of the broker must not take every replica out of HTTP.
    """

    async def publishes() -> None:
        if problems := channels.unpublished():
            raise PubSubError("; ".join(problems), transient=True)

    return _on_demand("publishers", publishes, critical=False)
