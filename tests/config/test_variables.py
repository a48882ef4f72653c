"""Variables: any case, parts of a value, whole sections, ``NAME_FILE`` and ``secrets_dir``."""

from __future__ import annotations

import dataclasses
import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import AliasChoices, BaseModel, Field, Json, RootModel, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_settings import ForceDecode, NoDecode, SettingsConfigDict
from typing_extensions import TypedDict

from gizmopy.config import Loaded, Settings, load, report
from gizmopy.config.origin import Origin
from gizmopy.errors import ConfigError, ConfigProblem


class Database(BaseModel):
    host: str = "localhost"
    port: int = 5432
    password: SecretStr = SecretStr("")
    tags: dict[str, int] = Field(default_factory=dict)


class Replica(BaseModel):
    url: str


@dataclasses.dataclass
class Account:
    user: str = "tom"
    password: str = ""
    database: Database = dataclasses.field(default_factory=Database)


@pydantic_dataclass
class Cache:
    size: int = 1
    name: str = ""


class Point(TypedDict):
    x: int
    y: int


class Pair(NamedTuple):
    left: int = 0
    right: int = 0


class Names(RootModel[list[str]]):
    pass


class Colour(Enum):
    RED = "red"


class Node(BaseModel):
    name: str = ""
    below: Node | None = None


class CatsSettings(Settings):
    database: Database = Database()
    account: Account = Account(user="default")
    cache: Cache = Field(default_factory=Cache)
    limits: dict[str, int] = Field(default_factory=lambda: {"base": 1})
    dbs: list[Database] = Field(default_factory=list)
    by_colour: dict[Literal["Red"] | Colour, int] = Field(default_factory=dict)
    nested: dict[str, dict[str, list[int]]] = Field(default_factory=dict)
    anything: dict[str, Any] = Field(default_factory=dict)
    point: Point | None = None
    pair: Pair = Pair()
    names: Names = Names([])
    either: Replica | Database | None = None
    tree: Node | None = None
    mixed: tuple[int, Database] | None = None
    api_key: SecretStr = SecretStr("")
    tail: str = ""
    cert: str = ""
    cert_file: str = ""


def loaded(
    environ: dict[str, str], *argv: str, cls: type[Any] = CatsSettings, dotenv: Path | None = None
) -> Loaded[Any]:
    """Load from an environment."""
    return load(cls, argv, environ=environ, dotenv=dotenv)


def problems(environ: dict[str, str], cls: type[Any] = CatsSettings) -> tuple[ConfigProblem, ...]:
    """Return the problems of a failed load."""
    with pytest.raises(ConfigError) as caught:
        loaded(environ, cls=cls)
    return caught.value.problems


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"DATABASE": '{"host": "db1"}'}, "database", Database(host="db1")),
        (
            {"DATABASE": '{"host": "db1", "port": 1}', "DATABASE__PORT": "2"},
            "database",
            Database(host="db1", port=2),
        ),
        ({"DATABASE__TAGS__A": "1"}, "database", Database(tags={"a": 1})),
        ({"ACCOUNT__PASSWORD": "x"}, "account", Account(user="default", password="x")),
        ({"ACCOUNT__DATABASE__PORT": "1"}, "account.database", Database(port=1)),
        ({"CACHE__SIZE": "5"}, "cache", Cache(size=5)),
        ({"LIMITS__A": "1"}, "limits", {"base": 1, "a": 1}),
        ({"LIMITS": '{"b": 2}', "LIMITS__A": "1"}, "limits", {"a": 1, "b": 2}),
        ({"DBS__0__HOST": "a", "DBS__1__PORT": "7"}, "dbs", [Database(host="a"), Database(port=7)]),
        ({"DBS__1__HOST": "b", "DBS__0__HOST": "a", "DBS__0__PORT": "1"}, "dbs.0.port", 1),
        ({"DBS": '[{"host": "a"}]', "DBS__0__PORT": "1"}, "dbs", [Database(host="a", port=1)]),
        ({"DBS__0": '{"host": "a"}', "DBS__0__PORT": "1"}, "dbs", [Database(host="a", port=1)]),
        ({"BY_COLOUR__RED": "1"}, "by_colour", {"Red": 1}),
        ({"NESTED__A__B": "[1]"}, "nested", {"a": {"b": [1]}}),
        ({"NESTED__A__B__0": "1", "NESTED__A__B__1": "2"}, "nested", {"a": {"b": [1, 2]}}),
        ({"ANYTHING__A": '{"b": 1}', "ANYTHING__C__D": "x"}, "anything.c", {"d": "x"}),
        ({"POINT__X": "1", "POINT__Y": "2"}, "point", {"x": 1, "y": 2}),
        ({"NAMES__0": "a"}, "names", Names(["a"])),
        ({"EITHER__URL": "a"}, "either", Replica(url="a")),
        ({"EITHER__PORT": "1"}, "either", Database(port=1)),
        ({"TREE__BELOW__BELOW__NAME": "c"}, "tree.below.below.name", "c"),
        ({"MIXED__0": "1", "MIXED__1__PORT": "2"}, "mixed", (1, Database(port=2))),
        ({"tail": "long"}, "tail", "long"),
        ({"Tail": "long", "TAIL": "short"}, "tail", "short"),
        ({"TAIL": "", "tail": "long"}, "tail", "long"),
        ({"http_port": "1"}, "http_port", 1),
        ({"database__host": "db1"}, "database", Database(host="db1")),
        ({"Limits__A": "1"}, "limits", {"base": 1, "a": 1}),
        ({"gizmo_topic_cats": "memory://"}, "topics", {"CATS": "memory://"}),
        ({"GIZMO_CORS_ORIGINS__0": "https://a.example"}, "cors_origins", ("https://a.example",)),
    ],
)
def test_the_ways_of_pydantic_settings(environ: dict[str, str], name: str, value: Any) -> None:
    """JSON of a section, names of parts at any depth, and any case of letters are read."""
    found: Any = loaded(environ).settings
    for part in name.split("."):
        found = (
            found[int(part)]
            if part.isdecimal()
            else (found[part] if isinstance(found, dict) else getattr(found, part))
        )
    assert found == value


def test_parts_merge_across_sources(tmp_path: Path) -> None:
    """A part replaces that part of a lower source, and a whole value replaces all parts."""
    file = tmp_path / "c.yaml"
    file.write_text("limits: {a: 1, b: 1}\ndbs: [{host: x, port: 1}]\n")
    dotenv = tmp_path / ".env"
    dotenv.write_text("LIMITS__B=2\n")
    environ = {"LIMITS__C": "3", "DBS__0__PORT": "2", "GIZMO_CONFIG": str(file)}
    found = loaded(environ, dotenv=dotenv)
    assert found.settings.limits == {"a": 1, "b": 2, "c": 3}
    assert found.settings.dbs == [Database(host="x", port=2)]
    assert found.origins["limits"] == Origin("environment", "LIMITS__C")
    assert loaded(environ, '--limits={"z": 1}', dotenv=dotenv).settings.limits == {"z": 1}


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"DATABASE": "cats"}, "DATABASE=*** (4 characters, from the environment): is not a table"),
        (
            {"DATABASE": '{"hots": 1}'},
            "DATABASE.hots (environment): is not a known setting; did you mean DATABASE.host?",
        ),
        ({"DATABASE": '{"port": "x"}'}, "DATABASE.port=x (environment): should be a valid integer"),
        (
            {"DATABASE": '{"port": 1, "port": 2}'},
            "DATABASE=*** (22 characters, from the environment): has a key twice in one table; ",
        ),
        (
            {"LIMITS": '{"a": 1, "a": 2}'},
            "LIMITS=*** (16 characters, from the environment): has a key twice in one table",
        ),
        (
            {"DBS__1__HOST": "a"},
            "DBS__1__HOST (environment): is item 1 of a list that has no ",
        ),
        ({"DBS__0__PORT": "x"}, "DBS__0__PORT=*** (1 character, from the environment): 0.port: "),
        ({"ACCOUNT__DATABASE__PORT": "x"}, "ACCOUNT__DATABASE__PORT=*** (1 character, "),
        (
            {"LIMITS__A": "x"},
            "LIMITS__A=*** (1 character, from the environment): ***: should be",
        ),
        ({"TAIL": "a", "TAIL_FILE": "/b"}, "TAIL_FILE (environment): is set, and TAIL too; unset "),
    ],
)
def test_problems_name_the_variable(environ: dict[str, str], text: str) -> None:
    """The problem of a part has the name of its own variable."""
    (problem,) = problems(environ)
    assert str(problem).startswith(text)


def test_a_repeated_key_in_a_file_is_a_problem(tmp_path: Path) -> None:
    """JSON and YAML would keep the last of two values in silence; the problem has the line."""
    for name, text in (
        ("c.json", '{"http_port": 1,\n "limits": {"a": 1,\n "a": 2}}'),
        ("c.yaml", "http_port: 1\nlimits:\n  a: 1\n  b: [1]\n  'a': 2\n"),
        ("c.yml", "http_port: 1\n\nhttp_port: 2\n"),
    ):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            loaded({}, f"--config={file}")
        (problem,) = caught.value.problems
        line = {"c.json": 3, "c.yaml": 5, "c.yml": 3}[name]
        assert problem.reason == f"has a key twice in one table (line {line})"
        assert problem.remedy == "keep one of them"


def test_a_merge_key_of_yaml_is_not_a_repetition(tmp_path: Path) -> None:
    """A key that overrides one of ``<<`` is YAML's own way to write a default."""
    file = tmp_path / "c.yaml"
    file.write_text("database: &a {host: x, port: 1}\nreplica:\n  <<: *a\n  port: 2\n")

    class Two(Settings):
        database: Database
        replica: Database

    assert loaded({}, f"--config={file}", cls=Two).settings.replica == Database(host="x", port=2)


class Options(Settings):
    model_config = SettingsConfigDict(
        env_nested_delimiter="_", env_prefix="CATS_", env_parse_none_str="null"
    )
    database: Database = Database()
    limits: dict[str, int] = Field(default_factory=dict)
    raw: Annotated[list[str] | str, NoDecode] = ""
    spare: str | None = "x"
    key: str = Field("", validation_alias=AliasChoices("KEY_ONE", "key_two"))
    numbers: Annotated[list[int], Json] = Field(default_factory=lambda: "[]")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"CATS_DATABASE_HOST": "a"}, "database", Database(host="a")),
        ({"CATS_LIMITS_A": "1"}, "limits", {"a": 1}),
        ({"CATS_RAW": '["a"]'}, "raw", '["a"]'),
        ({"CATS_SPARE": "null"}, "spare", None),
        ({"KEY_TWO": "2"}, "key", "2"),
        ({"key_one": "1", "KEY_TWO": "2"}, "key", "1"),
        ({"CATS_NUMBERS": "[1]"}, "numbers", [1]),
        ({"HTTP_PORT": "1"}, "http_port", 1),
        ({"GIZMO_TOPIC_A": "memory://"}, "topics", {"A": "memory://"}),
    ],
)
def test_options_of_the_class(environ: dict[str, str], name: str, value: Any) -> None:
    """The delimiter, the prefix, NoDecode, Json and the text for None of the class count."""
    assert getattr(loaded(environ, cls=Options).settings, name) == value


def test_the_prefix_of_the_class_is_not_for_the_standard_settings() -> None:
    """KAFKA_BROKER_HOSTS keeps its name if the class has a prefix."""
    settings = loaded({"KAFKA_BROKER_HOSTS": "b1"}, cls=Options).settings
    assert settings.kafka.broker_hosts == ("b1:9092",)


def test_enable_decoding_may_be_off() -> None:
    """With enable_decoding=False, only a field with ForceDecode is decoded."""

    class Plain(Settings):
        model_config = SettingsConfigDict(enable_decoding=False)
        a: list[str] | str = ""
        b: Annotated[list[str] | str, ForceDecode] = ""

    settings = loaded({"A": "[]", "B": "[]"}, cls=Plain).settings
    assert (settings.a, settings.b) == ("[]", [])


def secret(folder: Path, text: str, name: str = "secret") -> str:
    """Write a file, and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("hunter2", "hunter2"),
        ("hunter2\n", "hunter2"),
        ("hunter2\r\n", "hunter2"),
        ("hunter2\n\n", "hunter2\n"),
        (" a b \n", " a b "),
        ("-----BEGIN\r\nMII\r\n", "-----BEGIN\r\nMII"),
        ("\ufeffcat\n", "cat"),
        ("ü\n", "ü"),
    ],
)
def test_a_file_has_the_value(text: str, value: str, tmp_path: Path) -> None:
    """Of NAME_FILE and of a file in secrets_dir, one newline at the end is cut."""
    path = secret(tmp_path, text, "api_key")
    for environ in ({"API_KEY_FILE": path}, {"GIZMO_SECRETS_DIR": str(tmp_path)}):
        assert loaded(environ).settings.api_key.get_secret_value() == value


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("HTTP_PORT_FILE", "1", "http_port", 1),
        ("PORT_FILE", "1", "http_port", 1),
        ("tail_file", "a", "tail", "a"),
        ("DATABASE_FILE", '{"port": 1}', "database", Database(port=1)),
        ("DATABASE__PORT_FILE", "1", "database", Database(port=1)),
        ("LIMITS_FILE", '{"a": 1}', "limits", {"a": 1}),
        ("ACCOUNT__PASSWORD_FILE", "x", "account", Account(user="default", password="x")),
        ("GIZMO_TOPIC_CATS_FILE", "memory://", "topics", {"CATS": "memory://"}),
    ],
)
def test_every_setting_may_be_in_a_file(
    variable: str, text: str, name: str, value: Any, tmp_path: Path
) -> None:
    """Sections, parts, entries of tables and second names have a NAME_FILE, in .env as well."""
    path = secret(tmp_path, f"{text}\n")
    assert getattr(loaded({variable: path}).settings, name) == value
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"{variable}={path}\n")
    assert getattr(loaded({}, dotenv=dotenv).settings, name) == value


def test_a_setting_of_that_very_name_wins(tmp_path: Path) -> None:
    """CERT_FILE is a setting, and so it is not the file of CERT; a channel may end in _file."""
    settings = loaded({"CERT_FILE": "cert.pem", "GIZMO_TOPIC_CATS_FILE": "memory://"}).settings
    assert (settings.cert, settings.cert_file) == ("", "cert.pem")
    assert settings.topics == {"CATS_FILE": "memory://"}
    assert loaded({"ANYTHING__A_FILE": "/x"}).settings.anything == {"a_file": "/x"}


def test_the_order_of_sources(tmp_path: Path) -> None:
    """Defaults, file, .env, secrets_dir, environment with NAME_FILE, flags."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    dotenv = tmp_path / ".env"
    dotenv.write_text("")
    file = tmp_path / "c.json"
    file.write_text("{}")
    environ = {"GIZMO_SECRETS_DIR": str(folder), "GIZMO_CONFIG": str(file)}
    argv: list[str] = []

    def name() -> str:
        settings = load(Settings, argv, environ=environ, dotenv=dotenv).settings
        return str(settings.service_name)

    assert name() == ""
    file.write_text('{"service_name": "file"}')
    assert name() == "file"
    dotenv.write_text("SERVICE_NAME=dotenv")
    assert name() == "dotenv"
    dotenv.write_text(f"SERVICE_NAME_FILE={secret(tmp_path, 'dotenv file')}")
    assert name() == "dotenv file"
    secret(folder, "secrets_dir\n", "service_name")
    assert name() == "secrets_dir"
    environ["SERVICE_NAME_FILE"] = secret(tmp_path, "environment file", "other")
    assert name() == "environment file"
    del environ["SERVICE_NAME_FILE"]
    environ["SERVICE_NAME"] = "environment"
    assert name() == "environment"
    argv.append("--service-name=flag")
    assert name() == "flag"


def test_a_directory_of_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names have any case; a subdirectory is a section; an empty or hidden file counts for none."""
    for name, text in {
        "API_KEY": "a",
        "database__host": "b",
        "database/password": "c",
        "limits": '{"x": 1}',
        "LIMITS__Y": "2",
        "tail": "",
        ".hidden": "x",
        "..2026/tail": "x",
        "kubernetes.io/serviceaccount/token": "x",
        "other": "x",
    }.items():
        secret(tmp_path, text, name)
    (tmp_path / "link").symlink_to(tmp_path / "API_KEY")
    settings = loaded({"GIZMO_SECRETS_DIR": str(tmp_path)}).settings
    assert settings.api_key == SecretStr("a")
    assert settings.database == Database(host="b", password=SecretStr("c"))
    assert (settings.limits, settings.tail) == ({"x": 1, "y": 2}, "")
    assert caplog.messages == []
    assert loaded({}, f"--secrets-dir={tmp_path}").settings.api_key == SecretStr("a")


def test_secrets_dir_of_the_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pydantic-settings' secrets_dir is read; the variable replaces it; a missing one is logged."""
    secret(tmp_path, "a", "one/api_key")
    secret(tmp_path, "b", "two/api_key")
    secret(tmp_path, "c", "three/api_key")

    def key(directories: object, missing: str | None = None, **environ: str) -> str:
        config: Any = {"secrets_dir": directories, "secrets_dir_missing": missing}
        cls = type("Cats", (CatsSettings,), {"model_config": config, "__module__": __name__})
        return str(loaded(environ, cls=cls).settings.api_key.get_secret_value())

    one, two, three, none = (str(tmp_path / name) for name in ("one", "two", "three", "none"))
    assert key(one) == "a"
    assert key([Path(one), two]) == "b"
    assert key(one, GIZMO_SECRETS_DIR=three) == "c"
    assert caplog.messages == []
    assert key(none) == ""
    (message,) = caplog.messages
    assert message == f"Cats.model_config['secrets_dir'] is not read: {none} does not exist"
    assert key(none, "ok") == ""
    assert caplog.messages == [message]
    with pytest.raises(ConfigError, match=r"model_config\['secrets_dir'\].*cannot be read"):
        key(none, "error")


@pytest.mark.parametrize(
    ("named", "reason", "shown"),
    [
        ("{}/none", "names a file that cannot be read: No such file or directory", True),
        ("{}/none/x", "names a file that is in a directory that does not exist", False),
        ("hunter2secret", "names a file that cannot be read: No such file or directory", False),
        ("/hunter2secret", "names a file that cannot be read: No such file or directory", False),
        ("{}", "names a file that is not a regular file", True),
        ("{}/empty", "names a file that is an empty file", True),
        ("{}/fifo", "names a file that is not a regular file", True),
        ("{}/bytes", "names a file that is not UTF-8 text", True),
        ("{}/large", "names a file that is larger than 1048576 bytes", True),
        ("/dev/zero", "names a file that is not a regular file", True),
        ("\0", "names a file that is not the path of a file", False),
    ],
)
def test_a_file_that_cannot_be_used(named: str, reason: str, shown: bool, tmp_path: Path) -> None:
    """The problem quotes a path only if it is certainly not the secret itself."""
    (tmp_path / "empty").write_text("")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"hunter2\xff")
    (tmp_path / "large").write_bytes(b"x" * 1_048_577)
    path = named.format(tmp_path)
    (problem,) = problems({"API_KEY_FILE": path})
    assert (problem.name, problem.source) == ("API_KEY_FILE", "environment")
    assert problem.reason == reason
    assert (path in str(problem)) == shown
    assert "hunter2" not in str(problem)


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A directory that a variable names must exist, and its files must be readable."""
    secret(tmp_path, "x", "file")
    for named, reason in (("none", "cannot be read: No such file"), ("file", "is not a directory")):
        (problem,) = problems({"GIZMO_SECRETS_DIR": str(tmp_path / named)})
        assert problem.reason.startswith(reason)
        assert problem.value == str(tmp_path / named)
    (tmp_path / "api_key").write_bytes(b"\xff")
    (problem,) = problems({"GIZMO_SECRETS_DIR": str(tmp_path)})
    assert str(problem) == f"api_key ({tmp_path}): is not UTF-8 text; correct or remove the file"


def test_a_value_of_a_secret_file_is_never_shown(tmp_path: Path) -> None:
    """Not even a number or a marked text is: only a secret is put into such a file."""
    path = secret(tmp_path, "12345678")
    for variable, name in (("HTTP_PORT_FILE", "http_port"), ("HTTP_ADDR_FILE", "http_addr")):
        try:
            text = report.as_text(report.rows(loaded({variable: path})))
        except ConfigError as error:
            text = str(error)
        assert "12345678" not in text
        assert name in text or variable in text
