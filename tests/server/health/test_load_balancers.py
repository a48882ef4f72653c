"""A daemon that stops knows when each balancer has heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gizmopy.server.health.load_balancers import LoadBalancers
from pubsubtest import Clock


@asynccontextmanager
async def draining(balancers: LoadBalancers, clock: Clock) -> AsyncIterator[asyncio.Task[None]]:
    """Wait in a task until all are told; give it the turns that it takes to begin."""
    task = asyncio.create_task(balancers.wait_aware())
    await clock.advance(0)
    yield task
    task.cancel()
    await asyncio.wait([task])


def made(clock: Clock, addresses: int = 10) -> LoadBalancers:
    """Return balancers that live by ``clock``."""
    return LoadBalancers(max_addresses=addresses, clock=clock.time, sleep=clock.sleep)


async def test_nobody_is_waited_for_where_nobody_asked() -> None:
    """A daemon without balancers stops at once."""
    await made(Clock()).wait_aware()


async def test_each_that_asked_has_to_be_told() -> None:
    """The last one to hear ends the wait, whoever it is."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=True)
    balancers.record_poll("10.0.0.2", healthy=True)
    async with draining(balancers, clock) as told:
        balancers.record_poll("10.0.0.2", healthy=False)
        await clock.advance(1)
        assert not told.done()
        balancers.record_poll("10.0.0.1", healthy=False)
        await told


async def test_what_was_told_before_the_drain_does_not_count() -> None:
    """A check may have failed for one answer only, which no balancer acts upon."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=False)
    async with draining(balancers, clock) as told:
        assert not told.done()
        balancers.record_poll("10.0.0.1", healthy=False)
        await told


async def test_who_stops_asking_is_forgotten() -> None:
    """Each is forgotten 60 seconds after its own last question, and not before."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(10)
    balancers.record_poll("10.0.0.2", healthy=True)
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(10)
    balancers.record_poll("10.0.0.1", healthy=True)
    async with draining(balancers, clock) as told:
        await clock.advance(59)
        assert not told.done()
        await clock.advance(1)
        await told


async def test_who_is_gone_for_long_is_not_waited_for() -> None:
    """A balancer that was taken out of service a minute ago has heard nothing, and need not."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(60)
    await balancers.wait_aware()


async def test_who_goes_on_asking_keeps_nobody_else_in_mind() -> None:
    """Each is forgotten by its own last question, whoever was there first."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=True)
    balancers.record_poll("10.0.0.2", healthy=True)
    await clock.advance(59)
    balancers.record_poll("10.0.0.1", healthy=True)
    await clock.advance(1)
    async with draining(balancers, clock) as told:
        balancers.record_poll("10.0.0.1", healthy=False)
        await told


async def test_who_is_told_otherwise_while_it_drains_is_waited_for() -> None:
    """A balancer that still believes in this daemon goes on sending."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=True)
    async with draining(balancers, clock) as told:
        await clock.advance(30)
        balancers.record_poll("10.0.0.1", healthy=True)
        await clock.advance(59)
        assert not told.done()
        await clock.advance(1)
        await told


async def test_strangers_cannot_push_a_balancer_out() -> None:
    """Where as many are known as may be, new ones are not, until others are forgotten."""
    clock = Clock()
    balancers = made(clock, addresses=2)
    for address in ("10.0.0.1", "10.0.0.2", "192.0.2.1"):
        balancers.record_poll(address, healthy=True)
    async with draining(balancers, clock) as told:
        balancers.record_poll("10.0.0.2", healthy=False)
        await clock.advance(0)
        assert not told.done()
        balancers.record_poll("10.0.0.1", healthy=False)
        await told

    await clock.advance(60)
    balancers.record_poll("192.0.2.1", healthy=True)
    async with draining(balancers, clock) as told:
        assert not told.done()


async def test_a_drain_out_of_time_leaves_nothing_behind() -> None:
    """The wait can be cut short, and begun again."""
    clock = Clock()
    balancers = made(clock)
    balancers.record_poll("10.0.0.1", healthy=True)
    async with draining(balancers, clock) as told:
        told.cancel()
        await asyncio.wait([told])
        assert len(asyncio.all_tasks()) == 1
    async with draining(balancers, clock) as told:
        balancers.record_poll("10.0.0.1", healthy=False)
        await told
