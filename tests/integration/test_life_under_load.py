"""The cases of ``python -m tests.endurance.http``, once each: a daemon as a process, under load."""

from __future__ import annotations

import os

import pytest

from tests.endurance.http import description, shutdown_cases, slow_clients

LOOP = "uvloop"
"""The loop of most daemons; the benchmark runs each case on either."""


async def test_a_lagging_balancer_sees_no_error() -> None:
    """Whatever is sent for 1 s after SIGTERM, within the drain delay, is answered with 200."""
    assert (await shutdown_cases.lagging_balancer(LOOP)).problems == []


async def test_clients_that_never_leave_lose_nothing() -> None:
    """Clients that go on until the process is gone are refused, but lose no request they sent."""
    assert (await shutdown_cases.clients_that_never_leave(LOOP)).problems == []


async def test_a_handler_that_ignores_cancellation_does_not_hold_the_process() -> None:
    """Out of time the process ends with 70, within its budget, though a handler goes on."""
    assert (await shutdown_cases.stubborn_handler(LOOP)).problems == []


async def test_websockets_are_told_and_streams_end_clean() -> None:
    """WebSockets are closed with 1001, an SSE stream comes to its end, the exit code is 0."""
    assert (await shutdown_cases.streams(LOOP)).problems == []


async def test_every_answer_closes_in_the_drain_delay() -> None:
    """In the drain delay answers say Connection: close, and do; a new WebSocket gets its 1001."""
    assert (await shutdown_cases.drain_delay(LOOP)).problems == []


async def test_a_download_comes_whole() -> None:
    """A streamed answer that is under way at SIGTERM is sent to its end."""
    assert (await shutdown_cases.download(LOOP)).problems == []


async def test_an_answer_has_its_last_bytes() -> None:
    """What a slow client has not read of an answer yet is sent before the process ends."""
    assert (await shutdown_cases.last_bytes(LOOP)).problems == []


async def test_a_download_that_is_cut_does_not_look_whole() -> None:
    """Out of time, a streamed answer is cut without the end that says that it is whole."""
    assert (await shutdown_cases.download_out_of_time(LOOP)).problems == []


async def test_a_signal_during_the_start_undoes_it() -> None:
    """SIGTERM while the lifespan is entered closes what was opened, and the exit code is 0."""
    assert (await shutdown_cases.signal_in_start_up(LOOP)).problems == []


async def test_a_second_signal_hurries_the_drain() -> None:
    """A second signal ends the drain delay, and cuts what is under way soon after."""
    assert (await shutdown_cases.second_signal(LOOP)).problems == []


async def test_a_third_signal_ends_the_process_at_once() -> None:
    """A third signal ends the process with 128 and its number."""
    assert (await shutdown_cases.third_signal(LOOP)).problems == []


async def test_balancers_are_waited_for() -> None:
    """With health checks of type lb, it listens until each balancer has seen that it is red."""
    assert (await shutdown_cases.balancers(LOOP)).problems == []


async def test_a_silent_balancer_is_waited_for_within_the_budget() -> None:
    """A balancer that asks no more does not hold the process beyond its budget."""
    assert (await shutdown_cases.silent_balancer(LOOP)).problems == []


async def test_slow_headers_are_cut() -> None:
    """Headers that come byte by byte are cut at the read timeout, and others are served."""
    assert (await slow_clients.slow_headers(LOOP)).problems == []


async def test_a_slow_body_is_408() -> None:
    """A body that comes byte by byte is 408 at the read timeout, read by the handler or for it."""
    assert (await slow_clients.slow_body(LOOP)).problems == []


async def test_idle_connections_cost_little() -> None:
    """Many idle connections cost a bounded memory each, and do not hold the drain."""
    assert (await slow_clients.idle_connections(LOOP, 1_000)).problems == []


async def test_a_huge_body_is_413() -> None:
    """A body of 1 GiB, its length told or not, is refused long before it is sent."""
    assert (await slow_clients.huge_body(LOOP)).problems == []


async def test_huge_headers_are_431() -> None:
    """One header field, many of them, or a request line of 1 MiB are refused with their status."""
    assert (await slow_clients.huge_header(LOOP)).problems == []


async def test_an_answer_that_nobody_reads_is_cut() -> None:
    """A client that reads nothing is cut at the write timeout, in a stream or a large answer."""
    assert (await slow_clients.unread_answer(LOOP)).problems == []


async def test_what_is_slow_but_right_is_not_cut() -> None:
    """No timeout cuts a handler at work, a slow reader, an SSE stream or a silent WebSocket."""
    assert (await slow_clients.slow_but_right(LOOP)).problems == []


@pytest.mark.skipif(
    not description.INSTALLED and "CI" not in os.environ, reason="schemathesis is not installed"
)
async def test_the_example_does_what_it_describes() -> None:
    """schemathesis finds no 5xx and no undocumented status in the example's OpenAPI."""
    finding = await description.described(LOOP, "--seed", "1", "--max-examples", "20")

    assert finding.problems == []
