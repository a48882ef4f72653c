"""What is true of every driver, as checks that anybody's driver can be put to.

``run(Harness(open=...))`` runs them against a broker and returns a report; ``checks()`` are the
single checks, for a test of each: ``await run_check(check, harness)``. What a driver cannot do is
in the report with the reason, never left out. ``python -m pubsubtest URL`` does it from a terminal.
"""

from pubsubtest.conformance.checking import Check, CheckFailed, Harness
from pubsubtest.conformance.runner import Report, Result, checks, run, run_check

__all__ = ["Check", "CheckFailed", "Harness", "Report", "Result", "checks", "run", "run_check"]
