"""The drain waits until each load balancer knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gizmopy.server.health.load_balancers import LoadBalancers
from pubsubtest import Clock


@asynccontextmanager
async def draining(balancers: LoadBalancers, clock: Clock) -> AsyncIterator[asyncio.Task[None]]:
    """Run wait_aware() in a task that has started."""
    task = asyncio.create_task(balancers.wait_aware())
    await clock.advance(0)
    yield task
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def clock() -> Clock:
    """Give the clock of the load balancers."""
    return Clock()


@pytest.fixture
def balancers(clock: Clock) -> LoadBalancers:
    """Give load balancers without polls."""
    return load_balancers(clock, addresses=10)


def load_balancers(clock: Clock, addresses: int) -> LoadBalancers:
    """Return load balancers on ``clock``."""
    return LoadBalancers(max_addresses=addresses, clock=clock.time, sleep=clock.sleep)


async def test_without_polls_the_wait_ends_at_once(balancers: LoadBalancers) -> None:
    """A daemon without load balancers stops at once."""
    await balancers.wait_aware()


async def test_each_address_needs_a_failing_answer(balancers: LoadBalancers, clock: Clock) -> None:
    """The wait ends with the last address."""
    balancers.record_poll("10.0.0.1", healthy=True)
    balancers.record_poll("10.0.0.2", healthy=True)
    async with draining(balancers, clock) as waiting:
        balancers.record_poll("10.0.0.2", healthy=False)
        await clock.advance(1)
        assert not waiting.done()
        balancers.record_poll("10.0.0.1", healthy=False)
        await waiting


async def test_a_failing_answer_before_the_drain_does_not_count(
    balancers: LoadBalancers, clock: Clock
) -> None:
    """It may have been one failed check, on which no load balancer acts."""
    balancers.record_poll("10.0.0.1", healthy=False)
    async with draining(balancers, clock) as waiting:
        assert not waiting.done()
        balancers.record_poll("10.0.0.1", healthy=False)
        await waiting


async def test_an_address_that_stops_polling_is_forgotten(
    balancers: LoadBalancers, clock: Clock
) -> None:
    """It is forgotten 60 seconds after its own last poll, and not before."""
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(10)
    balancers.record_poll("10.0.0.2", healthy=True)
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(10)
    balancers.record_poll("10.0.0.1", healthy=True)
    async with draining(balancers, clock) as waiting:
        await clock.advance(59)
        assert not waiting.done()
        await clock.advance(1)
        await waiting


async def test_an_address_that_is_gone_is_not_waited_for(
    balancers: LoadBalancers, clock: Clock
) -> None:
    """A load balancer that was removed a minute ago cannot get an answer."""
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(60)
    await balancers.wait_aware()


async def test_each_address_is_forgotten_by_its_own_last_poll(
    balancers: LoadBalancers, clock: Clock
) -> None:
    """The order of the first polls does not matter."""
    balancers.record_poll("10.0.0.1", healthy=True)
    balancers.record_poll("10.0.0.2", healthy=True)
    await clock.advance(59)
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(1)
    async with draining(balancers, clock) as waiting:
        balancers.record_poll("10.0.0.1", healthy=False)
        await waiting


async def test_an_address_with_a_passing_answer_during_the_drain_is_waited_for(
    balancers: LoadBalancers, clock: Clock
) -> None:
    """Its load balancer still sends requests."""
    balancers.record_poll("10.0.0.1", healthy=True)
    async with draining(balancers, clock) as waiting:
        await clock.advance(30)
        balancers.record_poll("10.0.0.1", healthy=True)
        await clock.advance(59)
        assert not waiting.done()
        await clock.advance(1)
        await waiting


async def test_new_addresses_cannot_replace_a_load_balancer(clock: Clock) -> None:
    """At the limit new addresses are ignored, until others are forgotten."""
    balancers = load_balancers(clock, addresses=2)
    for address in ("10.0.0.1", "10.0.0.2", "192.0.2.1"):
        balancers.record_poll(address, healthy=True)
    async with draining(balancers, clock) as waiting:
        balancers.record_poll("10.0.0.2", healthy=False)
        await clock.advance(0)
        assert not waiting.done()
        balancers.record_poll("10.0.0.1", healthy=False)
        await waiting

    await clock.advance(60)
    balancers.record_poll("192.0.2.1", healthy=True)
    async with draining(balancers, clock) as waiting:
        assert not waiting.done()


async def test_a_cancelled_wait_can_be_repeated(balancers: LoadBalancers, clock: Clock) -> None:
    """A cancelled wait leaves no task behind."""
    balancers.record_poll("10.0.0.1", healthy=True)
    async with draining(balancers, clock) as waiting:
        waiting.cancel()
        await asyncio.wait([waiting])
        assert len(asyncio.all_tasks()) == 1
    async with draining(balancers, clock) as waiting:
        balancers.record_poll("10.0.0.1", healthy=False)
        await waiting
