"""Import the programs of examples/, whose folders are not packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

Load = Callable[[str, str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Give a function that imports a module of an example's folder."""
    before = set(sys.modules)

    def load_module(folder: str, module: str) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES / folder)
        return import_module(module)

    yield load_module
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(EXAMPLES)):
            del sys.modules[name]
