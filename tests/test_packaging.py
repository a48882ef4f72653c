"""The contents of the wheel, the exported names, and the modules that an import loads."""

import configparser
import importlib
import pkgutil
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import gizmopy
import pubsubtest

ROOT = Path(__file__).parents[1]

HELLO = """
import asyncio, sys
from gizmopy import Service, SimpleServer, get, subscribe

class Hello(Service):
    @get("/")
    async def hello(self) -> str:
        return "hello"

    @subscribe("greetings")
    async def on_greeting(self, greeting: str) -> None: ...

SimpleServer(Hello())
print(*sys.modules)
"""

HEAVY = {
    *(
        "aiokafka",
        "boto3",
        "botocore",
        "confluent_kafka",
        "google.cloud",
        "google.protobuf",
        "grpc",
    ),
    *("redis", "pytest", "yaml", "uvloop", "opentelemetry", "pubsubtest"),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources."""
    source = tmp_path_factory.mktemp("source") / "gizmopy"
    output = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(output), str(source)],
        check=True,
    )
    (built,) = output.iterdir()
    return built


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_the_wheel_holds_only_the_two_packages(wheel: Path) -> None:
    """The wheel has gizmopy and pubsubtest, py.typed and a license, and no tests or examples."""
    names = zipfile.ZipFile(wheel).namelist()
    info = f"gizmopy-{gizmopy.__version__}.dist-info"

    assert {name.split("/")[0] for name in names} == {"gizmopy", "pubsubtest", info}
    assert {"gizmopy/py.typed", "pubsubtest/py.typed", "gizmopy/pubsub/registry.py"} <= set(names)
    assert f"{info}/licenses/LICENSE" in names or f"{info}/LICENSE" in names


@pytest.mark.peers
@pytest.mark.timeout(300)
def test_the_wheel_works_in_an_empty_environment(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With only its requirements installed, a hello daemon is constructed, and the CLI runs."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    # With PYTHONPATH set to the sources, pip and Python would use those instead of the wheel.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run([str(python), "-m", "pip", "install", "-q", str(wheel)], check=True)
    subprocess.run([str(python), "-c", HELLO], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    cli = [str(tmp_path / "venv/bin/gizmopy"), "--version"]
    version = subprocess.run(cli, check=True, capture_output=True, text=True)

    assert version.stdout.strip() == f"gizmopy {gizmopy.__version__}"


def test_a_hello_daemon_loads_no_broker_and_no_grpc() -> None:
    """Importing gizmopy and constructing a daemon loads no SDK, no extra and no fake."""
    command = [sys.executable, "-c", HELLO]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    assert "gizmopy.server.server" in loaded
    assert not HEAVY & set(loaded)


def test_importing_gizmopy_alone_loads_nothing_else() -> None:
    """The names that gizmopy exports are imported when they are first used."""
    program = "import sys, gizmopy; print(*(m for m in sys.modules if m.startswith('gizmopy')))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    assert loaded.stdout.decode().split() == ["gizmopy"]


PACKAGES = ["gizmopy", "pubsubtest"] + [
    found.name
    for package in (gizmopy, pubsubtest)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if found.ispkg
]


@pytest.mark.parametrize("name", PACKAGES)
def test_each_exported_name_can_be_imported(name: str) -> None:
    """Each name in a package's __all__ is there once, and can be imported."""
    package = importlib.import_module(name)
    names = getattr(package, "__all__", [])

    assert len(names) == len(set(names))
    for each in names:
        assert getattr(package, each) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name raises the usual AttributeError."""
    with pytest.raises(AttributeError, match="module 'gizmopy' has no attribute 'Srevice'"):
        gizmopy.Srevice  # noqa: B018 -- the access is the test


def test_only_setup_cfg_has_the_metadata() -> None:
    """If pyproject.toml had a [project] table, setuptools would ignore setup.cfg."""
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_extra_all_has_every_extra_but_dev() -> None:
    """gizmopy[all] has each extra for users."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]

    assert set(extras["all"].split()) == {
        f"gizmopy[{e}]" for e in extras if e not in ("all", "dev")
    }
