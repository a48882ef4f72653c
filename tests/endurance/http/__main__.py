"""Prove the life of a daemon: python -m tests.endurance.http [ROUNDS] [CASE …].

Runs every case, or the named ones, ROUNDS times (default 1) on both event loops. Prints each
problem when it occurs, then how often each case failed and its worst figure. The exit code is 1 if
a case failed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from tests.endurance.http import description, shutdown_cases, slow_clients
from tests.endurance.http.finding import Finding

Case = Callable[[str], Awaitable[Finding]]

LOOPS = ("asyncio", "uvloop")
CASES: dict[Case, str] = {
    shutdown_cases.lagging_balancer: "s to exit",
    shutdown_cases.clients_that_never_leave: "s to exit",
    shutdown_cases.stubborn_handler: "s to exit",
    shutdown_cases.streams: "s to exit",
    shutdown_cases.drain_delay: "s to exit",
    shutdown_cases.download: "s to exit",
    shutdown_cases.last_bytes: "s to exit",
    shutdown_cases.download_out_of_time: "s to exit",
    shutdown_cases.signal_in_start_up: "s to exit",
    shutdown_cases.second_signal: "s to exit",
    shutdown_cases.third_signal: "s to exit",
    shutdown_cases.balancers: "s to exit",
    shutdown_cases.silent_balancer: "s to exit",
    slow_clients.slow_headers: "s until closed",
    slow_clients.slow_body: "s until closed",
    slow_clients.idle_connections: "KiB for each",
    slow_clients.huge_body: "MiB of memory",
    slow_clients.huge_header: "MiB of memory",
    slow_clients.unread_answer: "s until closed",
    slow_clients.slow_but_right: "s",
    description.described: "s",
}
"""The cases, with the unit of their figures."""

_CASE_SECONDS = 180.0
"""Time limit of one case, in seconds."""


async def _run(case: Case, loop: str) -> Finding:
    """Return the finding of a case; an exception or a time-out in the case itself is a problem."""
    try:
        async with asyncio.timeout(_CASE_SECONDS):
            return await case(loop)
    except Exception as error:  # noqa: BLE001 -- reported; the other cases still run
        return Finding([f"{type(error).__name__}: {error}"])


async def _prove(case: Case, unit: str, rounds: int) -> int:
    """Run a case on both loops, print a line for each, and return how often it failed."""
    name, failures = case.__name__, 0
    for loop in LOOPS:
        failed, worst = 0, 0.0
        for number in range(1, rounds + 1):
            finding = await _run(case, loop)
            failed += bool(finding.problems)
            worst = max(worst, finding.figure)
            for problem in finding.problems:
                print(f"  {name}, {loop}, round {number}: {problem}", flush=True)
        print(f"{name:<26} {loop:<8} {rounds:>6} {failed:>8}  {worst:8.2f} {unit}", flush=True)
        failures += failed
    return failures


async def main(rounds: int, names: Sequence[str] = ()) -> int:
    """Run the cases, and return 1 if one failed."""
    print(f"{'case':<26} {'loop':<8} {'rounds':>6} {'failures':>8}  {'worst':>8}")
    failures = 0
    for case, unit in CASES.items():
        if names and case.__name__ not in names:
            continue
        if case is description.described and not description.INSTALLED:
            print(f"{case.__name__:<26} not run: schemathesis is not installed")
            continue
        failures += await _prove(case, unit, rounds)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 1, sys.argv[2:])))
