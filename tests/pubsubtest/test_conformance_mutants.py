"""The conformance suite finds faults: each check fails for the fault that it is about."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gizmopy.pubsub.brokers.memory import MemoryDriver
from pubsubtest.conformance import Harness, checks, run_check
from tests.pubsubtest.mutants import ENGINE_MUTANTS, MUTANTS, Mutant

CHECKS = {check.name: check for check in checks()}
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
ALL = (*MUTANTS, *ENGINE_MUTANTS)
CAUGHT = [(mutant, name) for mutant in ALL for name in mutant.caught_by]


@pytest.mark.parametrize(("mutant", "name"), CAUGHT, ids=lambda each: getattr(each, "fault", each))
async def test_a_planted_fault_fails_its_check(
    mutant: Mutant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails with the fault; another test shows that it passes without."""
    before = asyncio.all_tasks()
    mutant.plant(monkeypatch)
    result = await run_check(CHECKS[name], mutant.make(), timeout=2.4)
    left = asyncio.all_tasks() - before
    for task in left:  # left running by the fault
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1)
    assert result.outcome == "failed"


def test_each_check_fails_for_a_fault() -> None:
    """Every check can fail."""
    assert {name for _, name in CAUGHT} == CHECKS.keys()


def test_the_page_counts_as_the_command_does() -> None:
    """The report on the page is that of ``memory://?lease=1``."""
    harness = Harness(open=lambda: MemoryDriver(lease=1))
    can = harness.open().capabilities
    lacking = sum(bool(check.missing(harness, can)) for check in CHECKS.values())
    line = f"{len(CHECKS) - lacking} passed, 0 failed, {lacking} not applicable"
    assert line in PAGE.read_text().splitlines()


def test_the_page_lists_the_faults() -> None:
    """The tables of faults on the page are those that are tested."""
    rows = [
        f"| {mutant.fault} | {', '.join(f'`{name}`' for name in mutant.caught_by)} |"
        for mutant in ALL
    ]
    assert [line for line in PAGE.read_text().splitlines() if line in rows] == rows


def test_the_page_lists_the_checks() -> None:
    """Each check has its row, in order, with its sentence and needs."""
    rows = [
        f"| `{check.name}` | {check.sentence} | {', '.join(need.what for need in check.needs)} |"
        for check in CHECKS.values()
    ]
    assert [line for line in PAGE.read_text().splitlines() if line in rows] == rows


def test_the_tests_and_checks_that_the_page_names_exist() -> None:
    """The tables of other suites name our checks and tests."""
    named = {word for line in PAGE.read_text().splitlines() for word in line.split("`")[1::2]}
    files = {path.name for path in Path(__file__).parents[1].rglob("test_*.py")}
    unknown = {
        name
        for name in named
        if "_" in name and name not in CHECKS and name not in files and "/" not in name
    }
    assert unknown == set()
