"""The health checks of subscriptions."""

from __future__ import annotations

import pytest

from gizmopy.config import Settings
from gizmopy.errors import StartError, TopicNotFound
from gizmopy.server import Service, SimpleServer
from gizmopy.server.health.checks import Health
from gizmopy.server.health.messaging import subscription_checks
from tests.pubsub.support import message
from tests.server.health.support import (
    AWAY,
    Broker,
    Critical,
    Full,
    Stuck,
    WithEndpoints,
    WithoutEndpoints,
    daemon,
    problems,
)


async def test_a_daemon_is_unready_until_its_broker_was_reached_once() -> None:
    """An unreachable broker does not end the start; the daemon retries, and is not ready."""
    async with daemon(WithEndpoints, away=True) as running:
        assert await running.status() == 503
        assert "brokers failed" in await running.verbose()
        running.retry.set()
        await running.until(lambda text: "brokers failed" not in text)
        assert await running.status() == 200


@pytest.mark.parametrize(
    ("service", "status"), [(WithEndpoints, 200), (Critical, 503), (WithoutEndpoints, 503)]
)
async def test_an_outage_of_the_broker_affects_readiness_only_if_critical(
    service: type[Service], status: int
) -> None:
    """It does if the subscription is critical, or if there are no endpoints."""
    async with daemon(service) as running:
        assert await running.status() == 200
        running.broker.receiver_.fail_receive(AWAY)
        text = await running.until(lambda text: "failed" in text)
        assert any("cats" in line and "failed" in line for line in text.splitlines())
        assert await running.status() == status
        running.retry.set()
        await running.until(lambda text: "failed" not in text)
        assert await running.status() == 200


async def test_a_blocked_lane_is_reported() -> None:
    """It does not fail readiness: another replica would be blocked too."""
    async with daemon(Stuck) as running:
        running.retry.set()
        running.broker.receiver_.put(message(key="tom"))
        text = await running.until(lambda text: "failed" in text)
        (line,) = [line for line in text.splitlines() if "failed" in line]
        assert "cats/stuck stuck failed" in line
        assert await running.status() == 200


async def test_a_full_waiting_room_is_reported() -> None:
    """It does not fail readiness: what else is received goes on."""
    async with daemon(Full) as running:
        running.broker.receiver_.put(message(), message())
        text = await running.until(lambda text: "failed" in text)
        (line,) = [line for line in text.splitlines() if "failed" in line]
        assert "cats/full waiting failed" in line
        assert await running.status() == 200


async def test_subscriptions_are_checked_on_demand() -> None:
    """The results are current, with any interval."""
    async with daemon(Critical) as running:
        server = running.server
        checks = subscription_checks(server.channels, server.subscriptions, critical=False)
        async with Health(checks, interval=3600) as health:
            health.accepting = True
            assert await problems(health) == []
            running.broker.receiver_.fail_receive(AWAY)
            await running.until(lambda text: "cats/critical failed" in text)
            assert await problems(health) == ["cats/critical failed"]


async def test_a_queue_that_does_not_exist_ends_the_start() -> None:
    """The error names the channel and the remedy."""
    broker = Broker()
    broker.receiver_.connects = [TopicNotFound("no such queue")]
    settings = Settings(http_port=0, http_access_log="off")
    server = SimpleServer(WithEndpoints(settings), open_driver=lambda _: broker)
    with pytest.raises(StartError, match=r"channel 'cats'.*no such queue.*GIZMO_SUBSCRIPTION_CATS"):
        await server.__aenter__()
