"""The Python on the pages runs as it is printed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.docs.support import MARKS, PAGES, ROOT, Block, Reader, blocks_of

WITH_BLOCKS = [page for page in PAGES if blocks_of(page)]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
async def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block runs with the imports it shows; its services start, and its tests pass."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path)
    try:
        for block in blocks_of(page):
            try:
                await reader.run(block)
            except BaseException as error:
                error.add_note(f"in the block at {block.place}")
                raise
    finally:
        reader.close()
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize(
    "block",
    [block for page in WITH_BLOCKS for block in blocks_of(page) if block.mark],
    ids=lambda block: block.place,
)
def test_a_block_that_does_not_run_has_a_reason(block: Block) -> None:
    """A mark is one of those that the tests know, and gives a reason."""
    (prefix,) = [prefix for prefix in MARKS if block.mark.startswith(prefix)] or [""]
    assert prefix, f"{block.place}: unknown mark {block.mark!r}"
    assert block.mark.removeprefix(prefix).strip()
