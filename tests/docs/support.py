"""Read the Python blocks of a page, and run them as a reader would."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pubsubtest
from gizmopy import Service

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"(?:<!-- (?P<mark>.*?) -->\n)?^```python\n(?P<code>.*?)^```", re.M | re.S)
_FILE = re.compile(r"# (?P<path>[\w/]+)\.py\n")

MARKS = ("compiled only: ", "not served: ")
"""A comment ahead of a block that cannot run: ``<!-- compiled only: it needs a broker -->``."""


@dataclass(frozen=True)
class Block:
    """A block of Python on a page."""

    page: Path
    line: int
    code: str
    mark: str

    @property
    def place(self) -> str:
        """The page and the line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def module(self) -> str:
        """The module that the block's first line names (``# shop/orders.py``), or an empty text."""
        found = _FILE.match(self.code)
        return found["path"].replace("/", ".") if found else ""


def blocks_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start("code")), found["code"], found["mark"] or "")
        for found in _BLOCK.finditer(text)
    ]


class Reader:
    """Run the blocks of one page in a folder that is on the path of imports.

    A block whose first line is ``# shop/orders.py`` is saved as that file and imported. Any other
    block is a module of its own. It finds the classes and functions that the blocks before it
    defined, but nothing that they imported.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._defined: dict[str, object] = {}
        self._modules: list[str] = []

    async def run(self, block: Block) -> None:
        """Run a block, then serve each service and run each test that it defines."""
        code = compile(block.code, block.place, "exec")
        if block.mark.startswith("compiled only: "):
            return
        module = self._import(block) if block.module else self._execute(block, code)
        own = {name: value for name, value in vars(module).items() if _is_from(module, value)}
        self._defined |= own
        for name, value in own.items():
            if name.startswith("test_") and not inspect.signature(value).parameters:
                await value()
        if not block.mark.startswith("not served: "):
            for service in _services(own.values()):
                await _serve(service)

    def close(self) -> None:
        """Forget the modules of the page."""
        for name in self._modules:
            sys.modules.pop(name, None)

    def _import(self, block: Block) -> ModuleType:
        file = (self.folder / block.module.replace(".", "/")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.parents[: len(file.relative_to(self.folder).parents) - 1]:
            (folder / "__init__.py").touch()
        file.write_text(block.code)
        importlib.invalidate_caches()
        for name in (block.module, *_parents(block.module)):
            sys.modules.pop(name, None)
            self._modules.append(name)
        return importlib.import_module(block.module)

    def _execute(self, block: Block, code: Any) -> ModuleType:
        name = f"docs_snippet_{block.page.stem.replace('-', '_')}_{block.line}"
        module = sys.modules[name] = ModuleType(name)
        self._modules.append(name)
        vars(module).update(self._defined)
        exec(code, vars(module))
        return module


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _is_from(module: ModuleType, value: object) -> bool:
    is_definition = inspect.isclass(value) or inspect.isfunction(value)
    return is_definition and getattr(value, "__module__", "") == module.__name__


def _services(values: Any) -> list[type[Service]]:
    return [value for value in values if inspect.isclass(value) and issubclass(value, Service)]


async def _serve(service: type[Service]) -> None:
    async with pubsubtest.serve(service) as served:
        async with served.http.get("/readyz?verbose") as response:
            assert response.status == 200, await response.text()
        async with served.http.get("/openapi.json") as response:
            assert response.status in (200, 404)  # 404: it has no endpoints
