"""The driver in docs/writing-a-driver.md passes the conformance suite unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gizmopy.pubsub import Driver
from pubsubtest.conformance import Check, Harness, checks, run_check

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"
DRIVER, PROOF = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

# The driver uses sqlite3, whose calls block, so that the page is short.
pytestmark = pytest.mark.usefixtures("blocking_calls_pass")


def _open_driver() -> Callable[[str], Driver]:
    namespace: dict[str, Any] = {}
    exec(compile(DRIVER, str(PAGE), "exec"), namespace)
    opened: Callable[[str], Driver] = namespace["open_driver"]
    return opened


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.name)
async def test_the_driver_on_the_page_passes(check: Check, tmp_path: Path) -> None:
    """No check fails for the driver of the documentation."""
    open_driver = _open_driver()
    harness = Harness(open=lambda: open_driver(f"sqlite://{tmp_path}/queue.db"), quiet=0.2)
    result = await run_check(check, harness, timeout=40)
    assert result.outcome != "failed", result.reason


async def test_most_checks_apply_to_it(tmp_path: Path) -> None:
    """The checks that do not apply are those that its capabilities exclude."""
    driver = _open_driver()(f"sqlite://{tmp_path}/queue.db")
    harness = Harness(open=lambda: driver)
    lacks = [lack for check in checks() if (lack := check.missing(harness, driver.capabilities))]
    await driver.aclose()
    assert len(lacks) < len(checks()) / 3


def test_the_proof_on_the_page_is_about_25_lines() -> None:
    """The test on the page compiles and is short."""
    compile(PROOF, str(PAGE), "exec")
    assert len(PROOF.splitlines()) <= 25
