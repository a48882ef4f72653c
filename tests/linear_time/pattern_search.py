"""Find every regular expression in a package, by its syntax tree."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split"}
_FUNCTIONS |= {"findall", "finditer", "template", "translate", "filter"}
_MODULES = {"re", "regex", "fnmatch"}


def patterns_in(package: Path) -> list[str]:
    """Return a name for each use of a function that takes a pattern: ``module:place``.

    The place is the name that the pattern is assigned to in its module, or else the function that
    contains it. A second one in the same function is ``module:place#2``.
    """
    found = []
    for path in sorted(package.rglob("*.py")):
        dotted = path.relative_to(package.parent).with_suffix("").as_posix().replace("/", ".")
        module = dotted.removesuffix(".__init__")
        counts: Counter[str] = Counter()
        for place in _places(ast.parse(path.read_text("utf-8"))):
            counts[place] += 1
            number = f"#{counts[place]}" if counts[place] > 1 else ""
            found.append(f"{module}:{place}{number}")
    return found


def _places(tree: ast.Module) -> Iterator[str]:
    modules, functions = _imported(tree)

    def walk(node: ast.AST, place: str, *, in_function: bool) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            place = f"{place}.{node.name}".lstrip(".")
            in_function = in_function or not isinstance(node, ast.ClassDef)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not in_function:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            place = f"{place}.{ast.unparse(target)}".lstrip(".")
        if _is_use(node, modules, functions):
            yield place
        for child in ast.iter_child_nodes(node):
            yield from walk(child, place, in_function=in_function)

    return walk(tree, "", in_function=False)


def _imported(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names by which a module imports modules of patterns, and their functions."""
    modules, functions = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _MODULES:
                    modules.add(alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module in _MODULES:
            for alias in node.names:
                if alias.name in _FUNCTIONS | {"*"}:
                    functions.add(alias.asname or alias.name)
    return modules, functions


def _is_use(node: ast.AST, modules: set[str], functions: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        owner = node.value
        return node.attr in _FUNCTIONS and isinstance(owner, ast.Name) and owner.id in modules
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in functions
