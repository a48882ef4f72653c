"""A setting that names code must not come from .env, nor from a file that .env names."""

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
    "names code to import, which neither .env nor a file named there may do; "
    "set it in the environment, by a flag, or in"
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
def test_code_that_dotenv_names_is_an_error(name: str, tmp_path: Path) -> None:
    """The error has the name of the variable and the remedy."""
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
def test_code_in_lists_and_tables_of_dotenv_is_an_error(line: str, tmp_path: Path) -> None:
    """The fields of a model that is a part of one setting are checked too."""
    name, _, value = line.partition("=")
    file = tmp_path / ".env"
    file.write_text(f"{name}='{value}'\n")
    with pytest.raises(ConfigError, match=f"{name}=.*: names code"):
        load(ListsSettings, environ={}, dotenv=file)


def test_lists_and_tables_of_dotenv_may_have_other_keys(tmp_path: Path) -> None:
    """Only keys that name code are errors."""
    file = tmp_path / ".env"
    file.write_text("""CLUSTERS='[{"broker_hosts": "b:1"}]'\nMANY='[{"tables": [{}]}]'\n""")
    loaded = load(ListsSettings, environ={}, dotenv=file).settings
    assert loaded.clusters[0].broker_hosts == ("b:1",)


@pytest.mark.parametrize("start", ["kafka:?", "kafka:/?", r"kafka:\n//b1?", r"kafka:/\t/b1/t?"])
def test_an_unusual_spelling_of_a_url_is_checked_too(start: str, tmp_path: Path) -> None:
    """Each text that the driver accepts as a URL is checked in .env."""
    file = tmp_path / ".env"
    file.write_text(f'GIZMO_PUBSUB_URL="{start}sasl_token_provider=evil:run"\n')
    with pytest.raises(ConfigError, match="names code"):
        load(Settings, environ={}, dotenv=file)


def test_an_encoded_parameter_in_a_value_is_not_a_parameter(tmp_path: Path) -> None:
    """A parameter within the encoded value of another stays a part of that value."""
    file = tmp_path / ".env"
    hidden = "b%3A1%3Fsasl_token_provider%3Devil%3Arun"
    file.write_text(f"GIZMO_PUBSUB_URL='kafka://?broker_hosts={hidden}'\n")
    url = load(Settings, environ={}, dotenv=file).settings.broker_url
    assert urlsplit(url).query == ""
    with pytest.raises(UsageError, match="host 1 is not host:port"):
        open_driver(url)


def test_code_in_a_file_that_dotenv_names_is_an_error(tmp_path: Path) -> None:
    """The file of GIZMO_CONFIG in .env is untrusted; the same file of a flag is trusted."""
    file, dotenv = tmp_path / "c.json", tmp_path / ".env"
    file.write_text('{"kafka": {"sasl_token_provider": "evil:run"}}')
    dotenv.write_text(f"GIZMO_CONFIG={file}\n")
    with pytest.raises(ConfigError, match="names code"):
        load(Settings, environ={}, dotenv=dotenv)
    loaded = load(Settings, [f"--config={file}"], environ={}, dotenv=dotenv)
    assert loaded.settings.kafka.sasl_token_provider == "evil:run"


def test_the_environment_and_flags_may_name_code(tmp_path: Path) -> None:
    """Both override a value in .env, which then is not checked."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("KAFKA_SASL_TOKEN_PROVIDER=evil:run\n")
    for argv, environ in (
        ([], {"KAFKA_SASL_TOKEN_PROVIDER": "cats.auth:token"}),
        (["--kafka.sasl-token-provider=cats.auth:token"], {}),
    ):
        loaded = load(Settings, argv, environ=environ, dotenv=dotenv)
        assert loaded.settings.kafka.sasl_token_provider == "cats.auth:token"


def in_folder(folder: Path, *arguments: str, **environ: str) -> str:
    """Return the output of ``python -m gizmopy`` in a directory with ``evil.py``."""
    (folder / "evil.py").write_text("print('evil ran')\n")
    (folder / "yaml.py").write_text("print('evil ran as yaml')\nraise ImportError\n")
    (folder / "c.yaml").write_text("http_port: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "gizmopy", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


LOGIN = {
    "KAFKA_BROKER_HOSTS": "localhost:1",
    "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
    "KAFKA_SASL_MECHANISM": "oauthbearer",
    "KAFKA_SASL_TOKEN_PROVIDER": "evil:run",
}


def test_redrive_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    """Code that the environment names and libraries are not imported from there."""
    output = in_folder(tmp_path, "redrive", "dead", "--wait=0.1", "--config=c.yaml", **LOGIN)
    assert "evil ran" not in output
    assert "sasl_token_provider=evil:run is not module:function" in output
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in LOGIN.items()))
    output = in_folder(tmp_path, "redrive", "dead", "--wait=0.1")
    assert "evil ran" not in output
    assert "names code" in output


def test_a_service_in_the_working_directory_may_import_from_it(tmp_path: Path) -> None:
    """Only such a service imports other modules of the working directory."""
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
    (tmp_path / "dogs").mkdir()  # a directory without __init__.py does not hide a module
    output = in_folder(tmp_path, "routes", "dogs:Cats", PYTHONPATH=str(elsewhere))
    assert "evil ran" not in output
    assert "No module named 'evil'" in output
