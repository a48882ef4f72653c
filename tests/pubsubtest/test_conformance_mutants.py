"""The suite catches a driver's faults, each by the name of the check that is about it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pubsubtest.conformance import Harness, checks, run_check
from tests.pubsubtest.mutants import MUTANTS, Mutant

CHECKS = {check.name: check for check in checks()}
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
CAUGHT = [(mutant, name) for mutant in MUTANTS for name in mutant.caught_by]


@pytest.mark.parametrize(("mutant", "name"), CAUGHT, ids=lambda each: getattr(each, "fault", each))
async def test_a_planted_fault_is_caught(mutant: Mutant, name: str) -> None:
    """The check fails on the driver with the fault; that it passes without is tested beside it."""
    before = asyncio.all_tasks()
    result = await run_check(CHECKS[name], Harness(open=mutant.make), timeout=4)
    for task in asyncio.all_tasks() - before:  # what the fault has left behind
        task.cancel()
    assert result.outcome == "failed"


def test_the_page_lists_the_faults() -> None:
    """The table of faults in the documentation is the one that is tested."""
    rows = [
        f"| {mutant.fault} | {', '.join(f'`{name}`' for name in mutant.caught_by)} |"
        for mutant in MUTANTS
    ]
    listed = [line for line in PAGE.read_text().splitlines() if line in rows]
    assert listed == rows


def test_the_page_lists_the_checks() -> None:
    """Each has its row, in the order in which they run, with its sentence and what it needs."""
    rows = [
        f"| `{check.name}` | {check.sentence} | {', '.join(need.what for need in check.needs)} |"
        for check in CHECKS.values()
    ]
    assert [line for line in PAGE.read_text().splitlines() if line in rows] == rows


def test_the_tests_and_checks_that_the_page_names_exist() -> None:
    """The tables of other suites' checks map to ours by their names."""
    named = {word for line in PAGE.read_text().splitlines() for word in line.split("`")[1::2]}
    files = {path.name for path in Path(__file__).parents[1].rglob("test_*.py")}
    unknown = {
        name
        for name in named
        if "_" in name and name not in CHECKS and name not in files and "/" not in name
    }
    assert unknown == set()
