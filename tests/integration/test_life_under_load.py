"""The cases of ``python -m tests.endurance.http``, once each: a daemon as a process, under load."""

from __future__ import annotations

import os

import pytest

from tests.endurance.http import description, shutdown_cases, slow_clients

LOOP = "uvloop"
"""The loop of most daemons; the benchmark runs each case on either."""


async def test_a_slow_load_balancer_gets_no_error() -> None:
    """Requests that are sent for 1 s after SIGTERM, within the drain delay, are answered 200."""
    assert (await shutdown_cases.lagging_balancer(LOOP)).problems == []


async def test_clients_that_keep_sending_lose_no_request() -> None:
    """Until the process ends they are refused, but each request that they sent is answered."""
    assert (await shutdown_cases.clients_that_never_leave(LOOP)).problems == []


async def test_a_handler_that_ignores_cancellation_does_not_delay_the_exit() -> None:
    """At the deadline the process ends with 70, although a handler still runs."""
    assert (await shutdown_cases.stubborn_handler(LOOP)).problems == []


async def test_websockets_and_streams_are_closed_cleanly() -> None:
    """WebSockets are closed with 1001, an SSE stream ends, and the exit code is 0."""
    assert (await shutdown_cases.streams(LOOP)).problems == []


async def test_every_response_closes_its_connection_in_the_drain_delay() -> None:
    """Responses have Connection: close; a new WebSocket gets its 1001."""
    assert (await shutdown_cases.drain_delay(LOOP)).problems == []


async def test_a_download_is_completed() -> None:
    """A streamed response that has started at SIGTERM is sent to its end."""
    assert (await shutdown_cases.download(LOOP)).problems == []


async def test_a_response_has_its_last_bytes() -> None:
    """Bytes that a slow client has not read yet are sent before the process ends."""
    assert (await shutdown_cases.last_bytes(LOOP)).problems == []


async def test_a_download_that_is_cancelled_does_not_look_complete() -> None:
    """At the deadline a streamed response ends without its last chunk."""
    assert (await shutdown_cases.download_out_of_time(LOOP)).problems == []


async def test_a_signal_during_the_start_undoes_it() -> None:
    """SIGTERM while the lifespan is entered closes the opened resources, and the exit code is 0."""
    assert (await shutdown_cases.signal_in_start_up(LOOP)).problems == []


async def test_a_second_signal_shortens_the_drain() -> None:
    """It ends the drain delay, and cancels the active requests a second later."""
    assert (await shutdown_cases.second_signal(LOOP)).problems == []


async def test_a_third_signal_ends_the_process() -> None:
    """The exit code is 128 plus its number."""
    assert (await shutdown_cases.third_signal(LOOP)).problems == []


async def test_load_balancers_are_waited_for() -> None:
    """With health checks of type lb, it listens until each load balancer got a failing answer."""
    assert (await shutdown_cases.balancers(LOOP)).problems == []


async def test_a_silent_load_balancer_is_waited_for_within_the_budget() -> None:
    """A load balancer that stops polling does not delay the exit beyond the budget."""
    assert (await shutdown_cases.silent_balancer(LOOP)).problems == []


async def test_slow_headers_time_out() -> None:
    """Headers that arrive byte by byte end at the read timeout, and other clients are served."""
    assert (await slow_clients.slow_headers(LOOP)).problems == []


async def test_a_slow_body_is_408() -> None:
    """A body that arrives byte by byte is 408 at the read timeout."""
    assert (await slow_clients.slow_body(LOOP)).problems == []


async def test_idle_connections_cost_little() -> None:
    """Each idle connection has a bounded memory, and none delays the drain."""
    assert (await slow_clients.idle_connections(LOOP, 1_000)).problems == []


async def test_a_huge_body_is_413() -> None:
    """A body of 1 GiB, with or without a length, is refused long before it is sent."""
    assert (await slow_clients.huge_body(LOOP)).problems == []


async def test_huge_headers_are_431() -> None:
    """One header field, many of them, or a request line of 1 MiB are refused with their status."""
    assert (await slow_clients.huge_header(LOOP)).problems == []


async def test_a_response_without_a_reader_times_out() -> None:
    """A client that reads nothing is disconnected at the write timeout."""
    assert (await slow_clients.unread_answer(LOOP)).problems == []


async def test_slow_but_correct_traffic_has_no_timeout() -> None:
    """No timeout ends a running handler, a slow reader, an SSE stream or a silent WebSocket."""
    assert (await slow_clients.slow_but_right(LOOP)).problems == []


@pytest.mark.peers
@pytest.mark.skipif(
    not description.INSTALLED and "CI" not in os.environ, reason="schemathesis is not installed"
)
async def test_the_example_matches_its_openapi_document() -> None:
    """schemathesis finds no 5xx and no undocumented status."""
    finding = await description.described(LOOP, "--seed", "1", "--max-examples", "20")

    assert finding.problems == []
