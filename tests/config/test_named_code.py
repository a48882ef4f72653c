"""A setting that names code is not taken from .env, nor from what .env names."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel, Field, ImportString, Json
from typing_extensions import TypedDict

from gizmopy.config import Settings, load
from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.marks import NamesCode
from gizmopy.errors import ConfigError, UsageError
from gizmopy.pubsub.registry import open_driver

ROOT = Path(__file__).parents[2]
REFUSED = (
    "names code to import, and .env must not name code; set it in the environment, by a flag, or in"
)


class Plugins(BaseModel):
    hook: Annotated[str, NamesCode] = ""


@dataclass
class Hook:
    name: ImportString[Any] | None = None


class Table(TypedDict, total=False):
    call: Annotated[str, NamesCode]


class Many(BaseModel):
    tables: list[Table] = []
    hooks: dict[str, Hook] = {}
    within: Many | None = None
    given: ImportString[Any] | None = Field(None, alias="Given")


class ListsSettings(Settings):
    clusters: list[KafkaSettings] = Field(default_factory=list)
    many: list[Many] | Many = Field(default_factory=list)
    text: Json[list[Many]] | None = None


class CatsSettings(Settings):
    factory: ImportString[Any] | None = None
    hooks: list[ImportString[Any]] = Field(default_factory=list)
    bare: ImportString | None = None  # type: ignore[type-arg]  # pydantic takes it
    plugins: Plugins = Plugins()


LINES = {
    "KAFKA_SASL_TOKEN_PROVIDER": "evil:run",
    "GIZMO_PUBSUB_URL": "kafka://b1?sasl_token_provider=evil:run",
    "GIZMO_TOPIC_CATS": "kafka://b1/t?group=g&sasl%5Ftoken_provider=evil:run",
    "GIZMO_SUBSCRIPTION_CATS": "kafka://b1/t?sasl_token_provider=",
    "FACTORY": "os:system",
    "HOOKS": '["os:system"]',
    "BARE": "os:system",
    "PLUGINS__HOOK": "evil:run",
}


@pytest.mark.parametrize("name", LINES)
def test_dotenv_names_no_code(name: str, tmp_path: Path) -> None:
    """It is refused by the name of the variable, with the remedy."""
    file = tmp_path / ".env"
    file.write_text(f"{name}='{LINES[name]}'\n")
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, environ={}, dotenv=file)
    (problem,) = caught.value.problems
    assert f"{problem.reason}; {problem.remedy}".startswith(REFUSED)
    assert (problem.name, problem.source) == (name, str(file))


@pytest.mark.parametrize(
    "line",
    [
        'CLUSTERS=[{"broker_hosts": "b:1", "sasl_token_provider": "evil:run"}]',
        'MANY=[{"tables": [{"call": "evil:run"}]}]',
        'MANY={"hooks": {"x": {"name": "os:system"}}}',
        'MANY=[{"within": {"within": {"Given": "os:system"}}}]',
        'TEXT=[{"\\u0047iven": "os:system"}]',
    ],
)
def test_lists_and_tables_in_dotenv_name_no_code(line: str, tmp_path: Path) -> None:
    """A model that is a part of one setting is looked into, too."""
    name, _, value = line.partition("=")
    file = tmp_path / ".env"
    file.write_text(f"{name}='{value}'\n")
    with pytest.raises(ConfigError, match=f"{name}=.*: names code"):
        load(ListsSettings, environ={}, dotenv=file)


def test_lists_and_tables_in_dotenv_may_say_the_rest(tmp_path: Path) -> None:
    """Only the keys that name code are refused."""
    file = tmp_path / ".env"
    file.write_text("""CLUSTERS='[{"broker_hosts": "b:1"}]'\nMANY='[{"tables": [{}]}]'\n""")
    loaded = load(ListsSettings, environ={}, dotenv=file).settings
    assert loaded.clusters[0].broker_hosts == ("b:1",)


@pytest.mark.parametrize("start", ["kafka:?", "kafka:/?", r"kafka:\n//b1?", r"kafka:/\t/b1/t?"])
def test_a_url_that_is_written_otherwise_names_no_code(start: str, tmp_path: Path) -> None:
    """Each text that the driver takes as a URL is one in .env."""
    file = tmp_path / ".env"
    file.write_text(f'GIZMO_PUBSUB_URL="{start}sasl_token_provider=evil:run"\n')
    with pytest.raises(ConfigError, match="names code"):
        load(Settings, environ={}, dotenv=file)


def test_hosts_in_the_query_are_no_query(tmp_path: Path) -> None:
    """A parameter that is encoded in another one's value is not decoded to one of its own."""
    file = tmp_path / ".env"
    hidden = "b%3A1%3Fsasl_token_provider%3Devil%3Arun"
    file.write_text(f"GIZMO_PUBSUB_URL='kafka://?broker_hosts={hidden}'\n")
    url = load(Settings, environ={}, dotenv=file).settings.broker_url
    assert urlsplit(url).query == ""
    with pytest.raises(UsageError, match="host 1 is not host:port"):
        open_driver(url)


def test_a_file_that_dotenv_names_names_no_code(tmp_path: Path) -> None:
    """GIZMO_CONFIG in .env is no way around; the same file named by a flag may."""
    file, dotenv = tmp_path / "c.json", tmp_path / ".env"
    file.write_text('{"kafka": {"sasl_token_provider": "evil:run"}}')
    dotenv.write_text(f"GIZMO_CONFIG={file}\n")
    with pytest.raises(ConfigError, match="names code"):
        load(Settings, environ={}, dotenv=dotenv)
    loaded = load(Settings, [f"--config={file}"], environ={}, dotenv=dotenv)
    assert loaded.settings.kafka.sasl_token_provider == "evil:run"


def test_the_environment_and_flags_may_name_code(tmp_path: Path) -> None:
    """Both beat what .env says, which is not judged then."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("KAFKA_SASL_TOKEN_PROVIDER=evil:run\n")
    for argv, environ in (
        ([], {"KAFKA_SASL_TOKEN_PROVIDER": "cats.auth:token"}),
        (["--kafka.sasl-token-provider=cats.auth:token"], {}),
    ):
        loaded = load(Settings, argv, environ=environ, dotenv=dotenv)
        assert loaded.settings.kafka.sasl_token_provider == "cats.auth:token"


def in_folder(folder: Path, *arguments: str, **environ: str) -> str:
    """Return the output of ``python -m gizmopy`` in a folder, which has ``evil.py``."""
    (folder / "evil.py").write_text("print('evil ran')\n")
    (folder / "yaml.py").write_text("print('evil ran as yaml')\nraise ImportError\n")
    (folder / "c.yaml").write_text("http_port: 1\n")
    told = subprocess.run(
        [sys.executable, "-m", "gizmopy", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return told.stdout + told.stderr


LOGIN = {
    "KAFKA_BROKER_HOSTS": "localhost:1",
    "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
    "KAFKA_SASL_MECHANISM": "oauthbearer",
    "KAFKA_SASL_TOKEN_PROVIDER": "evil:run",
}


def test_redrive_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    """Neither the code that the environment names nor a library, even with python -m."""
    output = in_folder(tmp_path, "redrive", "dead", "--wait=0.1", "--config=c.yaml", **LOGIN)
    assert "evil ran" not in output
    assert "sasl_token_provider=evil:run is not module:function" in output
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in LOGIN.items()))
    output = in_folder(tmp_path, "redrive", "dead", "--wait=0.1")
    assert "evil ran" not in output
    assert "names code" in output


def test_a_service_from_there_may_be_accompanied(tmp_path: Path) -> None:
    """A service in the working directory imports what lies beside it; an installed one does not."""
    (tmp_path / "cats.py").write_text(
        "import sys\n"
        "from gizmopy import Service\n"
        "class Cats(Service):\n"
        "    def __init__(self, settings=None):\n"
        "        import evil\n"
        "        super().__init__(settings)\n"
    )
    assert "evil ran" in in_folder(tmp_path, "routes", "cats:Cats")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "cats.py").rename(elsewhere / "dogs.py")
    output = in_folder(tmp_path, "routes", "dogs:Cats", PYTHONPATH=str(elsewhere))
    assert "evil ran" not in output
    assert "No module named 'evil'" in output
    (elsewhere / "dogs.py").write_text("import evil\n")
    (tmp_path / "dogs").mkdir()  # a folder without __init__.py is no package beside a module
    output = in_folder(tmp_path, "routes", "dogs:Cats", PYTHONPATH=str(elsewhere))
    assert "evil ran" not in output
    assert "No module named 'evil'" in output
