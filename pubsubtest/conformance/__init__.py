"""The conformance suite: checks of the driver contract, for any driver and its broker.

``run(Harness(open=...))`` runs all checks and returns a report. ``checks()`` returns them, for one
test each: ``await run_check(check, harness)``. A check that does not apply to a driver is in the
report with the reason. ``python -m pubsubtest URL`` runs the suite in a terminal.
"""

from pubsubtest.conformance.checking import Check, CheckFailed, Harness
from pubsubtest.conformance.runner import Report, Result, checks, run, run_check

__all__ = ["Check", "CheckFailed", "Harness", "Report", "Result", "checks", "run", "run_check"]
