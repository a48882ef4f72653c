"""A secret with unusual bytes is never shown, in any setting and from any source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import AnyUrl, BaseModel, Field, SecretStr, ValidationError, field_validator

import pubsubtest
from gizmopy import Service, get
from gizmopy.cli import main
from gizmopy.config import Loaded, Settings, load, report
from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.schema import Setting, read_schema
from gizmopy.config.secrets.redaction import redacted_model as masked
from gizmopy.errors import ConfigError
from gizmopy.untrusted.error_text import describe_error
from tests.config.secrets.canary import (
    CANARIES,
    LEFT,
    RIGHT,
    UNREADABLE,
    assert_unseen,
    shown_by,
    written,
)

ROOT = Path(__file__).parents[3]


@dataclass
class Account:
    user: str = ""
    password: str = ""


class Pin(BaseModel):
    pin: SecretStr = SecretStr("")


class Database(BaseModel):
    host: str = "db"
    password: SecretStr = SecretStr("")
    replica: Pin = Pin()


class CatsSettings(Settings):
    """Settings of a service, with a field of each kind."""

    api_key: str = ""
    pin: SecretStr | None = None
    pins: list[SecretStr] = Field(default_factory=list)
    pages: list[Pin] = Field(default_factory=list)
    database: Database = Database()
    account: Account = Account()
    feed: AnyUrl | None = None
    secrets: dict[str, Any] = Field(default_factory=dict)
    token: int = 0
    tokens_by_number: dict[int, SecretStr] = Field(default_factory=dict)


ALL = tuple(read_schema(CatsSettings).settings())


@pytest.fixture(scope="module", autouse=True)
def a_schema_is_read_once() -> Iterator[None]:
    """Keep the schema of each class: 5,000 loads and reports would read it again, for 30 s."""
    with pytest.MonkeyPatch.context() as patch:
        kept = cache(read_schema)
        patch.setattr("gizmopy.config.loading.read_schema", kept)
        patch.setattr("gizmopy.config.report.read_schema", kept)
        yield


SOURCES = ("environment", "flag", ".env", "json", "yaml", "NAME_FILE", "secrets_dir")


def load_from(
    source: str, setting: Setting, text: str, folder: Path
) -> tuple[str, Loaded[CatsSettings]]:
    """Load with ``text`` for one setting, and return the setting's name in the source."""
    channel = ".cats" if setting.table else ""
    variable = setting.environment[0].replace("<CHANNEL>", "CATS")
    if source == "environment":
        return variable, load(CatsSettings, environ={variable: text}, dotenv=None)
    if source == ".env":  # the file is UTF-8: it refers to a variable with the other bytes
        (folder / ".env").write_text(f"{variable}=${{OTHER}}\n")
        return variable, load(CatsSettings, environ={"OTHER": text}, dotenv=folder / ".env")
    if source == "flag":
        value = written("cats", text, "json") if setting.table else text
        loaded = load(CatsSettings, [f"{setting.flag}={value}"], environ={}, dotenv=None)
        return setting.flag + channel, loaded
    if source in ("NAME_FILE", "secrets_dir"):
        return load_from_secret_file(source, variable, text, folder)
    file = folder / f"settings.{source}"
    file.write_text(written(setting.name + channel, text, source))
    return setting.name + channel, load(CatsSettings, [f"--config={file}"], environ={}, dotenv=None)


def load_from_secret_file(
    source: str, variable: str, text: str, folder: Path
) -> tuple[str, Loaded[CatsSettings]]:
    """Load with ``text`` in a file of its own. Bytes that are not UTF-8 stay as they are."""
    path = folder / "secrets" / variable
    path.parent.mkdir(exist_ok=True)
    for other in path.parent.iterdir():
        other.unlink()
    path.write_bytes(
        text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")
    )
    environ = {f"{variable}_FILE": str(path)}
    if source == "secrets_dir":
        environ = {"GIZMO_SECRETS_DIR": str(path.parent)}
    return variable, load(CatsSettings, environ=environ, dotenv=None)


def everything_shown(loaded: Loaded[Any]) -> Iterator[str]:
    """Yield each text that shows loaded settings."""
    rows = report.rows(loaded)
    yield from (repr(loaded), str(loaded), repr(loaded.settings), str(loaded.settings), repr(rows))
    yield from (report.as_text(rows), report.as_markdown(rows), str(masked(loaded.settings)))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_value_that_is_not_utf8_is_an_error_and_never_shown(
    kind: str, source: str, tmp_path: Path
) -> None:
    """The error has the setting, the source and the length, for every setting."""
    text = CANARIES[kind]
    for setting in ALL:
        if source == "flag" and not setting.takes_flag:
            continue
        with pytest.raises(ConfigError) as caught:
            load_from(source, setting, text, tmp_path)
        for shown in shown_by(caught.value):
            assert_unseen(shown)
        (problem,) = caught.value.problems
        assert "is not UTF-8 text" in problem.reason
        if source in ("NAME_FILE", "secrets_dir"):
            continue  # it has the path of the file, and no length
        assert problem.reason == "is not UTF-8 text"
        variable = setting.environment[0].replace("<CHANNEL>", "CATS")
        assert problem.name in (variable, f"{setting.flag}{'.cats' if setting.table else ''}") or (
            problem.name == setting.name + (".cats" if setting.table else "")
        )
        assert f"{problem.name}=*** ({len(text)} characters, from " in str(caught.value)


@pytest.mark.parametrize("source", [*SOURCES, "toml"])
@pytest.mark.parametrize("kind", CANARIES)
def test_a_value_with_odd_characters_is_never_shown(kind: str, source: str, tmp_path: Path) -> None:
    """No report and no error has a part of it, for each setting that an error does not quote."""
    for setting in ALL:
        if setting.quotable:
            continue
        try:
            _, loaded = load_from(source, setting, CANARIES[kind], tmp_path)
        except ConfigError as error:
            texts = [*shown_by(error)]
        else:
            texts = [*everything_shown(loaded)]
        for text in texts:
            assert_unseen(text)


@pytest.mark.parametrize("kind", sorted(set(CANARIES) - set(UNREADABLE)))
def test_a_value_that_is_shown_does_not_control_a_terminal(kind: str, tmp_path: Path) -> None:
    """The value of a marked setting, and a wrong number in an error, are escaped."""
    for setting in ALL:
        if not setting.quotable:
            continue
        try:
            _, loaded = load_from("environment", setting, CANARIES[kind], tmp_path)
        except ConfigError as error:
            text = str(error)
        else:
            text = report.as_text(report.rows(loaded))
        assert text.replace("\n", "").isprintable()
        assert "x" * 2000 not in text


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml", ".env"])
def test_a_file_that_is_not_utf8_is_named_and_not_quoted(suffix: str, tmp_path: Path) -> None:
    """The problem of a file with a byte that is not UTF-8 has only the name of the file."""
    file = tmp_path / f"settings{suffix}"
    file.write_bytes(f"API_KEY={LEFT}".encode() + b"\xff")
    argv = [] if suffix == ".env" else [f"--config={file}"]
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, argv, environ={}, dotenv=file if suffix == ".env" else None)
    for shown in shown_by(caught.value):
        assert_unseen(shown)
    assert str(file) in str(caught.value)


def test_a_required_secret_that_is_not_utf8_is_one_problem() -> None:
    """A setting with a rejected value is not also reported as missing."""

    class Required(Settings):
        password: SecretStr

    with pytest.raises(ConfigError) as caught:
        load(Required, environ={"PASSWORD": CANARIES["not UTF-8"]}, dotenv=None)
    assert [problem.reason for problem in caught.value.problems] == ["is not UTF-8 text"]


@pytest.mark.parametrize("source", ["NAME_FILE", "secrets_dir"])
@pytest.mark.parametrize("kind", sorted(set(CANARIES) - set(UNREADABLE)))
def test_a_value_of_a_secret_file_is_never_shown(kind: str, source: str, tmp_path: Path) -> None:
    """The file of a secret hides its value in every setting, marked ones and numbers included."""
    for setting in ALL:
        try:
            _, loaded = load_from(source, setting, CANARIES[kind], tmp_path)
        except ConfigError as error:
            texts = [*shown_by(error)]
        else:
            # The repr of settings has no sources: it shows a marked text from wherever it is.
            rows = report.rows(loaded)
            texts = [report.as_text(rows), report.as_markdown(rows), repr(rows)]
        for text in texts:
            assert_unseen(text)


def test_a_secret_in_place_of_the_path_is_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A user may set API_KEY_FILE, or the directory's entry, to the secret itself."""
    for text in (f"{LEFT}{RIGHT}", f"/{LEFT}", f"{LEFT}/{RIGHT}", f"/{LEFT}/{RIGHT}", f"./{LEFT}"):
        for variable in ("API_KEY_FILE", "DATABASE_FILE", "DATABASE__PASSWORD_FILE", "PINS_FILE"):
            with pytest.raises(ConfigError) as caught:
                load(CatsSettings, environ={variable: text}, dotenv=None)
            dotenv = tmp_path / ".env"
            dotenv.write_text(
                f"{variable}={text}\nFOREIGN {text}\nX=${{{LEFT}}}\nAPI_KEY='{text}\n"
            )
            with pytest.raises(ConfigError) as other:
                load(CatsSettings, environ={}, dotenv=dotenv)
            for shown in (*shown_by(caught.value), *shown_by(other.value), *caplog.messages):
                assert_unseen(shown)


def test_a_nul_and_a_deep_value_are_problems(tmp_path: Path) -> None:
    """A NUL, which no path can contain, and deeply nested lists are problems."""
    file = tmp_path / "settings.json"
    for value, reason in (
        (f'"{LEFT}\\u0000"', "contains a NUL character"),
        ("[" * 100 + f'"{LEFT}"' + "]" * 100, "is nested too deep"),
        ("[" * 100_000, "is not JSON: "),
    ):
        file.write_text(f'{{"api_key": {value}}}')
        with pytest.raises(ConfigError) as caught:
            load(CatsSettings, [f"--config={file}"], environ={}, dotenv=None)
        assert caught.value.problems[0].reason.startswith(reason)
        for shown in shown_by(caught.value):
            assert_unseen(shown)
    with pytest.raises(ConfigError, match="SECRETS"):
        load(CatsSettings, environ={"SECRETS": '{"a":' * 100_000}, dotenv=None)


@pytest.mark.parametrize("made", [KafkaSettings, Settings])
def test_settings_constructed_in_code_reject_it_too(made: type[BaseModel]) -> None:
    """The constructor of settings rejects a value that is not UTF-8."""
    text = CANARIES["not UTF-8"]
    values: Mapping[type[BaseModel], dict[str, Any]] = {
        KafkaSettings: {"sasl_password": SecretStr(text)},
        Settings: {"pubsub_url": f"kafka://cat:{text}@b1"},
    }
    with pytest.raises(ValidationError) as caught:
        made(**values[made])
    for shown in shown_by(caught.value):
        assert_unseen(shown)


def test_the_bug_of_a_validator_is_reported_without_its_text() -> None:
    """The problem has the type and the line of the validator's error."""

    class Broken(Settings):
        token: SecretStr = SecretStr("")

        @field_validator("token")
        @classmethod
        def _look(cls, value: SecretStr) -> SecretStr:
            raise KeyError(value.get_secret_value())

    with pytest.raises(ConfigError, match=r"Broken: .* raised KeyError in .*test_canary") as e:
        load(Broken, environ={"TOKEN": CANARIES["a blank"]}, dotenv=None)
    for shown in shown_by(e.value):
        assert_unseen(shown)


def test_the_text_of_an_error_is_not_its_repr() -> None:
    """The log has the text of an error, and not its repr."""
    with pytest.raises(UnicodeEncodeError) as caught:
        CANARIES["not UTF-8"].encode()
    assert_unseen(describe_error(caught.value))
    assert describe_error(caught.value).startswith("UnicodeEncodeError: 'utf-8' codec can't encode")
    assert describe_error(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    "command",
    [["redrive", "dead"], ["config"], ["routes", "tests.cats:Cats"]],
    ids=lambda command: command[0],
)
def test_the_error_of_a_command_names_the_variable(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A command prints the error with the variable's name, and no traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", CANARIES["not UTF-8"])
    monkeypatch.setenv("KAFKA_BROKER_HOSTS", "localhost:1")
    assert main(command) == 2
    output = capfd.readouterr()
    assert_unseen(output.out + output.err)
    assert "KAFKA_SASL_PASSWORD=*** (26 characters, from the environment)" in output.err
    assert "Traceback" not in output.err


def test_redrive_rejects_a_url_that_is_not_utf8(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """--url is validated like GIZMO_PUBSUB_URL."""
    monkeypatch.chdir(tmp_path)
    assert main(["redrive", "dead", "--url", f"kafka://a:{CANARIES['not UTF-8']}@b"]) != 0
    output = capfd.readouterr()
    assert_unseen(output.out + output.err)
    assert output.err.startswith("gizmopy: the URL of the broker is not UTF-8 text")


@pytest.mark.parametrize("variable", ["KAFKA_SASL_PASSWORD", "GIZMO_DEBUG_TOKEN", "APP_LOG"])
def test_a_daemon_does_not_log_it(variable: str, tmp_path: Path) -> None:
    """A daemon exits with code 2 and a line that has the name of the variable."""
    done = subprocess.run(
        [sys.executable, "-m", "gizmopy", "run", "tests.cats:Cats"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HTTP_PORT": "0",
            "KAFKA_BROKER_HOSTS": "localhost:1",
            variable: CANARIES["not UTF-8"],
        },
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    output = (done.stdout + done.stderr).decode()
    assert_unseen(output)
    assert f"{variable}=*** (26 characters, from the environment): is not UTF-8 text" in output
    assert done.returncode == 2


SERVICE = """
from gizmopy import Service, get
from tests.config.secrets.test_canary import CatsSettings

class Cats(Service):
    settings: CatsSettings

    @get("/cats")
    async def cats(self) -> str:
        return "tom"
"""


@pytest.mark.parametrize("kind", sorted(set(CANARIES) - {*UNREADABLE, "very long"}))
def test_no_command_and_no_debug_page_shows_it(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """gizmopy config, routes and redrive do not print a canary of any hidden setting."""
    (tmp_path / "canary_cats.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "canary_cats", raising=False)
    text = CANARIES[kind]
    given = {
        "API_KEY": text,
        "PIN": text,
        "PINS": json.dumps([text]),
        "DATABASE__PASSWORD": text,
        "DATABASE__HOST": text,
        "DATABASE__REPLICA__PIN": text,
        "ACCOUNT": written("user", text, "json"),
        "SECRETS": written(LEFT, text, "json"),
        "GIZMO_DEBUG_TOKEN": text,
        "KAFKA_SASL_PASSWORD": text,
        "KAFKA_SASL_USERNAME": text,
        "GIZMO_PUBSUB_URL": f"memory://me:{quote(text)}@host",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    codes = [
        main(["config", "canary_cats:Cats"]),
        main(["routes", "canary_cats:Cats"]),
        main(["redrive", "dead"]),
    ]
    output = capfd.readouterr()
    assert codes == [0, 0, 1], output.err
    assert_unseen(output.out + output.err)
    assert "memory://host *** (" in output.out
    assert "memory://host keeps its messages in the memory of" in output.err


async def test_debug_config_shows_none_of_it() -> None:
    """/debug/config has the length of each hidden value."""
    text = CANARIES["quotes"]
    settings = CatsSettings(
        api_key=text,
        pin=SecretStr(text),
        pages=[Pin(pin=SecretStr(text))],
        account=Account(text, text),
        secrets={text: [text]},
        feed=AnyUrl(f"https://cat:{quote(text, safe='')}@host/{LEFT}"),
        debug_token=SecretStr(text),
        subscriptions={"cats": f"memory://me:{quote(text, safe='')}@host"},
    )
    async with pubsubtest.serve(Cats, settings=settings) as cats:
        login = {"Authorization": f"Bearer {text}"}
        response = await cats.http.get("/debug/config", headers=login)
        shown = await response.text()
    assert response.status == 200
    assert_unseen(shown)
    assert json.loads(shown)["api_key"] == f"*** ({len(text)} characters)"


class Cats(Service):
    settings: CatsSettings

    @get("/cats")
    async def cats(self) -> str:
        return "tom"
