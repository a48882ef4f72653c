"""The pages are short, complete and readable."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gizmopy
from gizmopy.cli.main import COMMANDS
from gizmopy.config import Settings
from gizmopy.config.schema import read_schema
from tests.docs.support import PAGES, ROOT

LONGEST_LINE = 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_long(page: Path) -> None:
    """A sentence has a line, of at most 160 characters; tables, links and code are free."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    long = [
        line
        for line in text.splitlines()
        if len(line) > LONGEST_LINE and not line.startswith("|") and "](" not in line
    ]
    assert not long


_PATH = re.compile(r"`((?:gizmopy|pubsubtest|tests|docs|examples|benchmarks)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_exists(page: Path) -> None:
    """A page names only files and folders of the repository that exist."""
    paths = set(_PATH.findall(page.read_text())) - {"docs/_build/html"}

    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"]
)
def test_every_link_outside_the_site_works(name: str) -> None:
    """A relative link of a page that Sphinx does not see leads to a file or folder."""
    page = ROOT / name

    assert [
        path for path in _LINK.findall(page.read_text()) if not (page.parent / path).exists()
    ] == []


def test_the_page_about_commands_lists_them() -> None:
    """docs/reference/cli.md has a row for each subcommand."""
    text = (ROOT / "docs/reference/cli.md").read_text()

    assert [name for name in COMMANDS if f"| `gizmopy {name} " not in text] == []


def test_the_readme_is_short() -> None:
    """The README has at most 100 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_the_page_of_the_package_lists_every_name() -> None:
    """docs/reference/api/gizmopy.md has a row for each name in gizmopy.__all__, and no other."""
    text = (ROOT / "docs/reference/api/gizmopy.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]

    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(gizmopy.__all__)


def test_the_page_about_gizmo_is_true_of_the_settings() -> None:
    """A variable of Gizmo is said to be the same if, and only if, it is a setting here."""
    text = (ROOT / "docs/migration/gizmo.md").read_text()
    text = text[text.index("## Environment names") :]
    rows = re.findall(r"^\| `(\w+)` \| (the same|renamed|out|not yet) \|", text, flags=re.M)
    known = {name for setting in read_schema(Settings).settings() for name in setting.environment}

    assert len(rows) == 102
    assert {name for name, status in rows if status == "the same"} == {
        name for name, _ in rows if name in known
    }


def _texts(path: Path) -> Iterator[str]:
    """Yield the texts in a module, with an ellipsis for each value that is put into them."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[\w.]+", "…", node.value)


def test_the_errors_in_troubleshooting_exist() -> None:
    """A heading that quotes an error is part of a text in gizmopy or pubsubtest."""
    page = (ROOT / "docs/guides/troubleshooting.md").read_text()
    quoted = re.findall(r"^### `(.+)`$", page, flags=re.M)
    files = (file for name in ("gizmopy", "pubsubtest") for file in (ROOT / name).rglob("*.py"))
    texts = "\n".join(text for file in files for text in _texts(file))

    assert len(quoted) > 20
    assert [text for text in quoted if text not in texts] == []


def test_every_logger_with_a_name_of_its_own_is_in_the_reference() -> None:
    """A logger whose name is not that of its module has a row that names the module's folder."""
    page = (ROOT / "docs/reference/loggers.md").read_text()
    rows = dict(re.findall(r"^\| `(gizmopy[\w.]+)` \|.*\| (`.+`) \|$", page, flags=re.M))
    found = set()
    for path in (ROOT / "gizmopy").rglob("*.py"):
        for name in re.findall(
            r'^logger = logging.getLogger\("(.+)"\)', path.read_text(), flags=re.M
        ):
            found.add(name)
            folder, _, _ = rows[name].strip("`").split("`")[0].rpartition("/")
            assert path.is_relative_to(ROOT / folder)

    assert found == rows.keys()
