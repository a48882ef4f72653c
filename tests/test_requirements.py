"""The ranges of the dependencies, and the locked versions for development."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements/dev.txt").read_text()

PIN = re.compile(r"(?P<pin>[a-z0-9-]+==[^ ]+)( ; [^\\]+)? \\")
HASH = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?")
COMMENT = re.compile(r" *# +[a-z0-9.() -]*:?", re.IGNORECASE)


def declared() -> list[Requirement]:
    """Return every requirement of setup.cfg and of the build, but for gizmopy's own extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = [line for text in lists for line in text.split("\n")]
    lines += tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "gizmopy["))]


def pinned(name: str) -> list[str]:
    """Return the version of a package in the lock: more than one if Pythons need different ones."""
    pins = [found["pin"].split("==") for line in LOCK.splitlines() if (found := PIN.match(line))]
    return [version for pin, version in pins if pin == canonicalize_name(name)]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_dependency_has_a_range_that_ends(requirement: Requirement) -> None:
    """A dependency has a lowest version and an upper bound: a later major one is not taken."""
    assert sorted(bound.operator for bound in requirement.specifier) == ["<", ">="]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    """Tests run with one version of each dependency, one that users may have: make lock."""
    versions = pinned(requirement.name)

    assert versions
    assert all(requirement.specifier.contains(version) for version in versions)


def test_the_lock_holds_pins_and_hashes_alone() -> None:
    """The lock names no index, no address and no path, and every pin has a hash."""
    lines = LOCK.splitlines()
    kinds = [PIN, HASH, COMMENT]
    strange = [line for line in lines if not any(kind.fullmatch(line) for kind in kinds)]
    bare = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if PIN.fullmatch(line) and not HASH.fullmatch(after)
    ]

    assert any(PIN.fullmatch(line) for line in lines)
    assert strange == []
    assert bare == []
