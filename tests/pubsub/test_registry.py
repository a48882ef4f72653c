"""The registry: the driver of a URL's scheme."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gizmopy.errors import DriverNotInstalled, UnknownScheme, UsageError
from gizmopy.pubsub import open_driver
from gizmopy.pubsub import registry as drivers


def register(monkeypatch: pytest.MonkeyPatch, scheme: str, target: str) -> None:
    """Register the driver of a third party."""
    point = EntryPoint(scheme, target, drivers.GROUP)
    monkeypatch.setattr(drivers, "entry_points", lambda *, group: [point])


def test_memory_is_built_in() -> None:
    """memory:// opens a new broker each time."""
    assert open_driver("memory://").capabilities.process_local
    assert open_driver("memory://") is not open_driver("memory://")


def test_an_unknown_scheme_names_the_known_ones_and_no_password() -> None:
    """The error lists the schemes that can be used."""
    with pytest.raises(UnknownScheme, match="memory://") as caught:
        open_driver("nats://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_a_third_party_registers_by_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The function of the entry point is called with the URL."""
    (tmp_path / "thirdparty_good.py").write_text("def open_it(url): return ['opened', url]\n")
    monkeypatch.syspath_prepend(tmp_path)
    register(monkeypatch, "good", "thirdparty_good:open_it")
    assert open_driver("good://host") == ["opened", "good://host"]  # type: ignore[comparison-overlap]  # a fake


def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the library of a driver is missing, the error names it and the extra to install."""
    (tmp_path / "thirdparty_poor.py").write_text("import missing_broker_library.client\n")
    monkeypatch.syspath_prepend(tmp_path)
    register(monkeypatch, "poor", "thirdparty_poor:open_driver")
    with pytest.raises(DriverNotInstalled, match=r"missing_broker_library.*gizmopy\[poor\]"):
        open_driver("poor://host")


@pytest.mark.parametrize("bug", ["import thirdparty_bad.nothing", "from json import nothing"])
def test_a_bug_in_a_driver_is_not_called_a_missing_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bug: str
) -> None:
    """A failed import inside the driver's own package is raised unchanged."""
    (tmp_path / "thirdparty_bad.py").write_text(f"{bug}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "thirdparty_bad", raising=False)
    register(monkeypatch, "bad", "thirdparty_bad:open_driver")
    with pytest.raises(ImportError):
        open_driver("bad://host")


@pytest.mark.parametrize("url", ["kafka://u:pa[ss@b1:9092", "kafka://b1:9092/t?x=s3cret@b2"])
def test_a_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    """The error has a remedy, and no part of a URL that may be a password."""
    with pytest.raises(UsageError, match="write %40 for @") as caught:
        open_driver(url)
    assert "pa[ss" not in f"{caught.value!r}"
    assert "s3cret" not in f"{caught.value!r}"


def test_importing_the_package_imports_no_broker_and_no_server() -> None:
    """A daemon loads only the brokers that it uses."""
    code = (
        "import sys, gizmopy.pubsub; "
        "print([m for m in sys.modules if m in ('gizmopy.pubsub.brokers.memory', 'aiohttp',"
        " 'aiokafka', 'boto3', 'google.protobuf', 'grpc', 'gizmopy.server', 'gizmopy.web')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_all_is_sorted_and_complete() -> None:
    """__all__ is sorted, and each name exists."""
    import gizmopy.pubsub

    names = gizmopy.pubsub.__all__
    assert sorted(names) == names
    assert all(hasattr(gizmopy.pubsub, name) for name in names)
