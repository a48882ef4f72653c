"""The limits of shape and language that CONTRIBUTING states."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "gizmopy").rglob("*.py"))
MAX_LINES = {"pubsub/engine/pipeline.py": 300, "server/server.py": 300}
"""Lines of a file; 500 for any other. These two are read from top to bottom."""
MAX_ATTRIBUTES = 16
"""Attributes that one ``__init__`` sets; 15 is the aim."""
MAX_NESTING = 4
README_LINES = 100

# Each pattern finds a habit that makes a sentence hard for an engineer whose second language is
# English; a few natural uses are found, too, so that the limit is a rate per 1,000 words, not zero.
HABITS = {
    "a clause with what or who in the place of a noun": (
        1.0,
        r"\b(?:what|who)(?:ever)?\s+(?:is|was|has|had|are|were|comes|came|goes|would|may|can|cannot"
        r"|could|will|it|they|he|a|the|we|stands?|waits?|fails?|dies|ends|asks?|reads?|does|did"
        r"|takes?|nobody|somebody|happens|becomes|there|users?|others?|clients?|each|no)\b",
    ),
    "where in the place of if": (
        1.0,
        r"(?<![a-z])where (?:there|it|they|the|a|an|nothing|no|none|one|that|order|this|each"
        r"|some)\b",
    ),
    "nobody, somebody, whoever, stranger": (
        0.3,
        r"\b(?:nobody|somebody|whoever|strangers?)\b",
    ),
    "tell, hear, heed": (0.6, r"\b(?:tells?|told|telling|heard|hears?|heed\w*)\b"),
}
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def _name(path: Path) -> str:
    return path.relative_to(ROOT / "gizmopy").as_posix()


def _nesting(node: ast.AST, outer: int = 0) -> int:
    """Count the blocks around the innermost statement; an ``elif`` counts as its ``if``."""
    deepest = outer
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deeper = isinstance(child, _BLOCKS) and not is_elif
        deepest = max(deepest, _nesting(child, outer + deeper))
    return deepest


def _attributes(init: ast.FunctionDef) -> set[str]:
    """Name the attributes of ``self`` that a method assigns."""
    return {
        node.attr
        for node in ast.walk(init)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def _texts(path: Path) -> Iterator[str]:
    """Give the docstrings and comments of a module, or a page without its code blocks."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield re.sub(r"```.*?```", "", source, flags=re.DOTALL)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string[1:]


def _prose() -> str:
    folders = [ROOT / "gizmopy", ROOT / "pubsubtest", ROOT / "docs"]
    pages = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".md")
    ]
    written = [path for path in pages if "_build" not in path.parts]
    return "\n".join(text for path in (*written, ROOT / "README.md") for text in _texts(path))


def test_a_file_is_short_enough_to_be_read() -> None:
    """No file of gizmopy has more than 500 lines; the two stories have 300 at most."""
    lines = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: n for name, n in lines.items() if n > MAX_LINES.get(name, 500)} == {}


def test_a_class_has_few_attributes() -> None:
    """No ``__init__`` sets more attributes than the limit."""
    many = {
        f"{_name(path)}:{node.name}": len(found)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        if len(found := _attributes(method)) > MAX_ATTRIBUTES
    }
    assert many == {}


def test_a_function_is_not_nested_deeply() -> None:
    """No function of gizmopy has more blocks inside each other than the limit."""
    deep = {
        f"{_name(path)}:{node.name}": found
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (found := _nesting(node)) > MAX_NESTING
    }
    assert deep == {}


def test_the_readme_is_short() -> None:
    """The README has 100 lines at most."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("habit", HABITS)
def test_the_prose_is_plain(habit: str) -> None:
    """Docstrings, comments, docs and README keep each habit below its rate per 1,000 words."""
    limit, pattern = HABITS[habit]
    prose = _prose()
    words = len(re.findall(r"[A-Za-z']+", prose))
    found = [match[0] for match in re.finditer(pattern, prose, flags=re.IGNORECASE)]
    assert 1000 * len(found) / words <= limit, f"{len(found)} times: {', '.join(found[:20])}"
