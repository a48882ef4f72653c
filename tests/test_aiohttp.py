"""The private parts of aiohttp are used in one file, which lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import BodyPartReader, MultipartReader, StreamReader, web, web_protocol
from aiohttp.http import StreamWriter

from gizmopy import _aiohttp

ROOT = Path(_aiohttp.__file__).parent
BOUNDARY = ROOT / "_aiohttp.py"
CLASSES = (
    web.RequestHandler,
    web.Request,
    web.Response,
    web.FileResponse,
    web.WebSocketResponse,
    web.Server,
    StreamReader,
    StreamWriter,
    MultipartReader,
    BodyPartReader,
)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _private_names() -> set[str]:
    """Return the private names of aiohttp's classes that gizmopy derives from or calls."""
    names = {name for each in CLASSES for name in dir(each)} | web.Request.ATTRS
    return {name for name in (*names, *dir(web_protocol)) if _is_private(name)}


def _used(tree: ast.AST) -> Iterator[str]:
    """Yield the private attributes and the private imports of a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name) if _is_private(name):
                yield name


def _defined(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module's own classes and functions define."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name


def _overridden(tree: ast.AST) -> Iterator[str]:
    """Yield the private methods that a module defines, and the private names in its texts."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Constant(value=str(name)) if name.isidentifier():
                yield name


def _modules() -> list[Path]:
    return [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if path != BOUNDARY and "aiohttp" in path.read_text()
    ]


def _is_of_aiohttp(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, CLASSES)


def test_each_private_name_in_use_is_listed_and_exists() -> None:
    """The list in the docstring is complete, and has no name that aiohttp no longer has."""
    tree = ast.parse(BOUNDARY.read_text())
    listed = set(re.findall(r"``(?:\w+\.)?(_\w+)``", _aiohttp.__doc__ or ""))
    used = {name for name in (*_used(tree), *_overridden(tree)) if _is_private(name)}
    own = {"_slot", "_replace"}  # a function of the file, and a method of every named tuple
    assert used - own == listed
    assert listed <= _private_names()


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_uses_a_private_name_of_aiohttp(path: Path) -> None:
    """A module may use a private name only if it defines that name itself."""
    tree = ast.parse(path.read_text())
    assert not (set(_used(tree)) & _private_names()) - set(_defined(tree))


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_overrides_a_private_name_of_aiohttp(path: Path) -> None:
    """A subclass of an aiohttp class shares no private name with it by accident."""
    name = ".".join(("gizmopy", *path.relative_to(ROOT).with_suffix("").parts))
    module = import_module(name.removesuffix(".__init__"))
    for kind in vars(module).values():
        if _is_of_aiohttp(kind) and kind.__module__ == module.__name__:
            shared = set(filter(_is_private, vars(kind))) & _private_names()
            assert shared <= {"_abc_impl"}
