"""Loading: every source, their order, and the origin of each value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, Field, RootModel, SecretStr
from pydantic_settings import SettingsConfigDict

from gizmopy.config import Duration, Loaded, Settings, load
from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.origin import Origin


class Pool(BaseModel):
    size: int = 4
    wait: Duration = timedelta(seconds=1)


class Postgres(BaseModel):
    host: str
    port: int = 5432
    pool: Pool = Pool()


class CatsSettings(Settings):
    database: Postgres
    replica: Postgres | None = None
    spare: Postgres = Postgres(host="spare", port=1, pool=Pool(size=9))
    workers: int | Literal["auto"] = "auto"
    names: list[str] = Field(default_factory=list)
    labels: dict[str, int] | None = None
    tail: str = "long"
    no_tail: str = ""


class Plain(Settings):
    """A subclass without fields."""


def cats(
    argv: Sequence[str] = (), environ: dict[str, str] | None = None, dotenv: Path | None = None
) -> Loaded[CatsSettings]:
    """Load CatsSettings with the one setting that they require."""
    return load(
        CatsSettings, argv, environ={"DATABASE__HOST": "db"} | (environ or {}), dotenv=dotenv
    )


def test_each_standard_setting_has_its_environment_name() -> None:
    """Every environment name in Gizmo's style sets its setting."""
    environ = {
        "SERVICE_NAME": "cats",
        "SERVICE_VERSION": "1",
        "HTTP_ADDR": "0.0.0.0",
        "HTTP_PORT": "0",
        "APP_LOG_LEVEL": "WARN",
        "APP_LOG_JSON_FMT": "true",
        "APP_LOG": "stdout",
        "HTTP_ACCESS_LOG": "off",
        "GIZMO_MAX_HEADER_BYTES": "1",
        "GIZMO_MAX_BODY_BYTES": "2",
        "GIZMO_READ_TIMEOUT": "1m30s",
        "GIZMO_IDLE_TIMEOUT": "2",
        "GIZMO_PUBLISH_LINGER": "5ms",
        "GIZMO_PUBLISH_STALL": "7s",
        "GIZMO_SHUTDOWN_TIMEOUT": "500ms",
        "GIZMO_DRAIN_DELAY": "0",
        "GIZMO_HEALTH_CHECK_PATH": "/up",
        "METRICS_PATH": "/m",
        "TLS_CERT": "cert.pem",
        "TLS_KEY": "key.pem",
        "TLS_CLIENT_CA": "clients.pem",
        "GIZMO_HSTS": "max-age=300",
        "GIZMO_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8",
        "GIZMO_PROXY_PROTOCOL": "false",  # true is not allowed with TLS_CERT
        "GIZMO_LOG_FIELDS": "gcp",
        "GIZMO_ACCESS_LOG_FORMAT": "combined",
        "GIZMO_LOG_PROBES": "true",
        "GIZMO_MAX_CONCURRENT_REQUESTS": "100",
        "GIZMO_MAX_CONNECTIONS": "1000",
        "GIZMO_MAX_REQUESTS_PER_CONNECTION": "500",
        "GIZMO_MAX_CONNECTION_AGE": "1h",
        "GIZMO_HANDLER_TIMEOUT": "3s",
        "GIZMO_WRITE_TIMEOUT": "4s",
        "GIZMO_MIN_SEND_RATE": "240",
        "GIZMO_TERMINATION_GRACE": "20s",
        "GIZMO_HEALTH_CHECK_TYPE": "esx",
        "GIZMO_HEALTH_INTERVAL": "5s",
        "GIZMO_LIVENESS_STALL": "6s",
        "GIZMO_BLOCKING_WARNING": "7ms",
        "GIZMO_ADMIN_PORT": "9090",
        "GIZMO_ADMIN_ADDR": "0.0.0.0",
        "GIZMO_DEBUG": "true",
        "GIZMO_DEBUG_TOKEN": "meow",
        "ENABLE_PPROF": "true",
        "GIZMO_OPENAPI": "false",
        "GIZMO_CORS_ORIGINS": '["https://cats.example"]',
        "GIZMO_ALLOWED_HOSTS": "Cats.example, *.cats.example.",
        "GIZMO_JSON_CONTENT_TYPE": "application/vnd.cats+json",
        "GIZMO_LOOP": "asyncio",
        "GIZMO_PUBSUB_URL": "kafka://b1",
        "GIZMO_TOPIC_CATS": "sns://cats",
        "GIZMO_SUBSCRIPTION_CATS": "sqs://cats",
    }
    loaded = load(Settings, environ=environ, dotenv=None)
    assert loaded.settings.model_dump() == {
        "service_name": "cats",
        "service_version": "1",
        "http_addr": "0.0.0.0",
        "http_port": 0,
        "log_level": "warning",
        "log_json": True,
        "log_file": "stdout",
        "http_access_log": "off",
        "max_header_bytes": 1,
        "max_body_bytes": 2,
        "min_send_rate": 240,
        "read_timeout": timedelta(seconds=90),
        "idle_timeout": timedelta(seconds=2),
        "publish_linger": timedelta(milliseconds=5),
        "publish_stall": timedelta(seconds=7),
        "shutdown_timeout": timedelta(milliseconds=500),
        "drain_delay": timedelta(0),
        "health_check_path": "/up",
        "metrics_path": "/m",
        "tls_cert": "cert.pem",
        "tls_key": "key.pem",
        "tls_client_ca": "clients.pem",
        "hsts": "max-age=300",
        "trusted_proxies": (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        "proxy_protocol": False,
        "log_fields": "gcp",
        "access_log_format": "combined",
        "log_probes": True,
        "max_concurrent_requests": 100,
        "max_connections": 1000,
        "max_requests_per_connection": 500,
        "max_connection_age": timedelta(hours=1),
        "handler_timeout": timedelta(seconds=3),
        "write_timeout": timedelta(seconds=4),
        "termination_grace": timedelta(seconds=20),
        "health_check_type": "lb",
        "health_interval": timedelta(seconds=5),
        "liveness_stall": timedelta(seconds=6),
        "blocking_warning": timedelta(milliseconds=7),
        "admin_port": 9090,
        "admin_addr": "0.0.0.0",
        "debug": True,
        "debug_token": SecretStr("meow"),
        "enable_pprof": True,
        "openapi": False,
        "cors_origins": ("https://cats.example",),
        "allowed_hosts": ("cats.example", "*.cats.example"),
        "json_content_type": "application/vnd.cats+json",
        "loop": "asyncio",
        "pubsub_url": "kafka://b1",
        "topics": {"CATS": "sns://cats"},
        "subscriptions": {"CATS": "sqs://cats"},
        "kafka": KafkaSettings().model_dump(),  # test_kafka.py has its names
    }


def test_only_the_given_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a mapping is passed, the environment of the process is not read."""
    monkeypatch.setenv("HTTP_PORT", "1")
    monkeypatch.setenv("GIZMO_CONFIG", "/nowhere.toml")
    monkeypatch.setenv("GIZMO_TOPIC_CATS", "memory://")
    settings = load(Settings, environ={}, dotenv=None).settings
    assert settings == Settings()


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, the environment of the process is read."""
    monkeypatch.setenv("HTTP_PORT", "1")
    assert load(Settings, dotenv=None).settings.http_port == 1


def test_http_port_comes_before_port() -> None:
    """HTTP_PORT overrides PORT, which platforms set, and the origin has the name."""
    both = load(Settings, environ={"PORT": "1", "HTTP_PORT": "2"}, dotenv=None)
    assert both.settings.http_port == 2
    assert both.origins["http_port"] == Origin("environment", "HTTP_PORT")
    empty = load(Settings, environ={"PORT": "1", "HTTP_PORT": ""}, dotenv=None)
    assert empty.settings.http_port == 1
    assert empty.origins["http_port"] == Origin("environment", "PORT")


def test_an_empty_environment_value_counts_as_unset(tmp_path: Path) -> None:
    """An empty variable in the environment or .env does not override a lower source."""
    file = tmp_path / "cats.json"
    file.write_text('{"service_name": "cats", "topics": {"cats": "memory://"}}')
    dotenv = tmp_path / ".env"
    dotenv.write_text("SERVICE_NAME=\n")
    environ = {"SERVICE_NAME": "", "GIZMO_TOPIC_CATS": "", "GIZMO_CONFIG": str(file)}
    settings = load(Settings, environ=environ, dotenv=dotenv).settings
    assert settings.service_name == "cats"
    assert settings.topics == {"CATS": "memory://"}


def test_unknown_names_in_the_environment_are_ignored() -> None:
    """The name of a field is not its variable, if the field has another one."""
    environ = {"LOG_LEVEL": "debug", "LOOP": "x", "LIMIT": "cats", "HOME": "/", "TAILS": "x"}
    loaded = cats(environ=environ)
    assert loaded.settings == CatsSettings(database=Postgres(host="db"))


FILES = {
    "cats.json": '{"http_port": 1, "database": {"host": "x", "pool": {"size": 2}}}',
    "cats.toml": 'http_port = 1\n[database]\nhost = "x"\n[database.pool]\nsize = 2\n',
    "cats.yaml": "http_port: 1\ndatabase:\n  host: x\n  pool: {size: 2}\n",
    "cats.yml": "# cats\nhttp_port: 1\ndatabase: {host: x, pool: {size: 2}}\n",
    "cats.TOML": '\ufeffhttp_port = 1\ndatabase = {host = "x", pool = {size = 2}}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_by_their_suffix(name: str, tmp_path: Path) -> None:
    """JSON, TOML and YAML files give the same settings, with the file as their origin."""
    file = tmp_path / name
    file.write_text(FILES[name], encoding="utf-8")
    loaded = load(CatsSettings, ["--config", str(file)], environ={}, dotenv=None)
    expected = Postgres(host="x", pool=Pool(size=2))
    assert loaded.settings == CatsSettings(http_port=1, database=expected)
    assert loaded.origins["database.pool.size"] == Origin(str(file), "database.pool.size")
    assert loaded.origins["database.port"] == Origin("default")


@pytest.mark.parametrize("text", ["", "# nothing\n", "database:\ntopics:\n"])
def test_an_empty_file_or_section_has_no_values(text: str, tmp_path: Path) -> None:
    """An empty YAML file or section is null, which is not a value."""
    file = tmp_path / "cats.yaml"
    file.write_text(text)
    assert cats([f"--config={file}"]).settings == cats().settings


def test_each_source_overrides_the_ones_before_it(tmp_path: Path) -> None:
    """The order is: the defaults, the file, .env, the environment, the command line."""
    file = tmp_path / "cats.toml"
    dotenv = tmp_path / "cats.env"
    environ: dict[str, str] = {}
    argv = [f"--config={file}"]

    def port() -> tuple[int, str]:
        loaded = load(Plain, argv, environ=environ, dotenv=dotenv)
        return loaded.settings.http_port, str(loaded.origins["http_port"])

    file.write_text("")
    assert port() == (8080, "default")
    file.write_text("http_port = 1")
    assert port() == (1, f"{file} http_port")
    dotenv.write_text("HTTP_PORT=2")
    assert port() == (2, f"{dotenv} HTTP_PORT")
    environ["HTTP_PORT"] = "3"
    assert port() == (3, "environment HTTP_PORT")
    argv += ["--http-port", "4"]
    assert port() == (4, "command line --http-port")


def test_nested_models_merge_across_sources(tmp_path: Path) -> None:
    """Each setting of a section comes from the last source that has it."""
    file = tmp_path / "cats.json"
    file.write_text('{"database": {"host": "file", "port": 1, "pool": {"size": 1, "wait": "1m"}}}')
    dotenv = tmp_path / "cats.env"
    dotenv.write_text("DATABASE__PORT=2\nDATABASE__POOL__SIZE=2\n")
    environ = {"DATABASE__POOL__SIZE": "3", "GIZMO_CONFIG": str(file)}
    argv = ["--database.host", "flag"]
    loaded = load(CatsSettings, argv, environ=environ, dotenv=dotenv)
    pool = Pool(size=3, wait=timedelta(minutes=1))
    assert loaded.settings.database == Postgres(host="flag", port=2, pool=pool)
    assert loaded.origins["database.host"] == Origin("command line", "--database.host")
    assert loaded.origins["database.port"] == Origin(str(dotenv), "DATABASE__PORT")


def test_a_sections_default_is_the_lowest_source() -> None:
    """A value for one setting of a section keeps the defaults of the others."""
    loaded = cats(environ={"SPARE__HOST": "x"})
    assert loaded.settings.spare == Postgres(host="x", port=1, pool=Pool(size=9))
    deeper = cats(["--spare.pool.wait=1m"])
    pool = Pool(size=9, wait=timedelta(minutes=1))
    assert deeper.settings.spare == Postgres(host="spare", port=1, pool=pool)


def test_an_optional_section_exists_if_a_source_has_a_value_for_it() -> None:
    """A section that is None by default gets its own defaults and the value."""
    assert cats().settings.replica is None
    assert cats(environ={"REPLICA__HOST": "x"}).settings.replica == Postgres(host="x")


def test_a_required_section_whose_fields_all_have_defaults_needs_nothing() -> None:
    """A section without required fields may be missing in every source."""

    class Pooled(Settings):
        pool: Pool

    assert load(Pooled, environ={}, dotenv=None).settings.pool == Pool()


def test_the_flag_for_the_file_overrides_its_variable(tmp_path: Path) -> None:
    """--config overrides GIZMO_CONFIG, which overrides that of .env. Empty: no file."""
    for port in "123":
        (tmp_path / f"{port}.toml").write_text(f"http_port = {port}")
    dotenv = tmp_path / "env"
    dotenv.write_text(f"GIZMO_CONFIG={tmp_path}/3.toml")

    def port_of(argv: list[str], environ: dict[str, str]) -> int:
        return load(Settings, argv, environ=environ, dotenv=dotenv).settings.http_port

    environ = {"GIZMO_CONFIG": f"{tmp_path}/2.toml"}
    assert port_of(["--config", f"{tmp_path}/1.toml"], environ) == 1
    assert port_of([], environ) == 2
    assert port_of([], {}) == 3
    assert port_of(["--config="], environ) == 8080


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--http-port", "9000"], "http_port", 9000),
        (["--http-port=9000"], "http_port", 9000),
        (["--http-port=1", "--http-port", "2"], "http_port", 2),
        (["--log-json"], "log_json", True),
        (["--no-log-json"], "log_json", False),
        (["--log-json=false"], "log_json", False),
        (["--log-json", "--no-log-json"], "log_json", False),
        (["--service-name", "a=b"], "service_name", "a=b"),
        (["--service-name="], "service_name", ""),
        (["--service-name", "-"], "service_name", "-"),
        (["--service-name=--x"], "service_name", "--x"),
        (["--names", '["a", "b"]'], "names", ["a", "b"]),
        (["--labels", '{"a": 1}'], "labels", {"a": 1}),
        (["--workers", "3"], "workers", 3),
        (["--workers", "auto"], "workers", "auto"),
        (["--no-tail", "x"], "no_tail", "x"),
        (["--topics", '{"cats": "memory://"}'], "topics", {"CATS": "memory://"}),
    ],
)
def test_flags(argv: list[str], field: str, value: Any) -> None:
    """The value is the next word or the text after =. The last of several flags counts."""
    assert getattr(cats(argv).settings, field) == value


def test_a_boolean_flag_does_not_use_the_next_word() -> None:
    """A flag after a boolean flag is parsed as a flag."""
    settings = cats(["--log-json", "--http-port=1"]).settings
    assert (settings.log_json, settings.http_port) == (True, 1)


def test_lists_and_dicts_are_json_in_the_environment() -> None:
    """Structured settings are JSON in a source that has only text."""
    settings = cats(environ={"NAMES": '["a"]', "LABELS": '{"a": 1}'}).settings
    assert (settings.names, settings.labels) == (["a"], {"a": 1})


def test_channels_merge_across_sources(tmp_path: Path) -> None:
    """The URL of a channel comes from the last source that names the channel."""
    file = tmp_path / "cats.yaml"
    file.write_text("topics:\n  cats.new: file://1\n  dogs: file://2\n")
    environ = {"GIZMO_TOPIC_CATS_NEW": "env://1", "GIZMO_TOPIC_": "x", "GIZMO_TOPIC": "x"}
    argv = ["--config", str(file), "--topics", '{"eels": "flag://3"}']
    loaded = load(Settings, argv, environ=environ, dotenv=None)
    assert loaded.settings.topics == {
        "CATS_NEW": "env://1",
        "DOGS": "file://2",
        "EELS": "flag://3",
    }
    assert loaded.origins["topics.CATS_NEW"] == Origin("environment", "GIZMO_TOPIC_CATS_NEW")
    assert loaded.origins["topics.DOGS"] == Origin(str(file), "topics.dogs")
    assert loaded.origins["topics.EELS"] == Origin("command line", "--topics.eels")


def test_default_channels_stay_if_a_source_names_others() -> None:
    """Topics of sources are added to the default of a subclass, which keeps the names."""

    class Cats(Settings):
        topics: dict[str, str] = {"cats": "memory://", "dogs": "memory://"}  # noqa: RUF012

    settings = load(Cats, environ={"GIZMO_TOPIC_DOGS": "x://"}, dotenv=None).settings
    assert settings.topics == {"CATS": "memory://", "DOGS": "x://"}


def test_a_new_default_keeps_the_environment_names() -> None:
    """A subclass that changes only a default has the same variables."""

    class Cats(Settings):
        http_port: int = 9000
        log_json: bool | None = True

    assert load(Cats, environ={}, dotenv=None).settings.http_port == 9000
    environ = {"PORT": "1", "APP_LOG_JSON_FMT": "no"}
    settings = load(Cats, environ=environ, dotenv=None).settings
    assert (settings.http_port, settings.log_json) == (1, False)


def test_own_fields_go_by_alias_or_upper_case_name() -> None:
    """The variable is the alias, or else the field's name with the prefix of the class."""

    class Nested(BaseModel):
        deep: int = Field(0, alias="DEEPER")

    class Cats(Settings):
        model_config = SettingsConfigDict(env_prefix="CATS_")
        paws: int = 4
        tail: int = Field(1, alias="THE_TAIL")
        nested: Nested = Nested()

    environ = {"CATS_PAWS": "1", "THE_TAIL": "2", "CATS_NESTED__DEEPER": "3"}
    settings = load(Cats, environ=environ, dotenv=None).settings
    assert (settings.paws, settings.tail, settings.nested.deep) == (1, 2, 3)


def test_the_keys_of_files_are_field_names_or_environment_names(tmp_path: Path) -> None:
    """Both names of a field can be keys of a file."""
    file = tmp_path / "cats.json"
    file.write_text('{"HTTP_PORT": 1, "log_level": "debug"}')
    settings = load(Settings, ["--config", str(file)], environ={}, dotenv=None).settings
    assert (settings.http_port, settings.log_level) == (1, "debug")


def test_null_in_a_file_is_a_value(tmp_path: Path) -> None:
    """Null sets a setting to None, if its type allows None."""

    class Cats(Settings):
        drain_delay: Duration | None = timedelta(seconds=1)

    file = tmp_path / "cats.json"
    file.write_text('{"drain_delay": null}')
    settings = load(Cats, ["--config", str(file)], environ={}, dotenv=None).settings
    assert settings.drain_delay is None


class Node(BaseModel):
    name: str
    below: Node | None = None


class Names(RootModel[list[str]]):
    pass


def _commas(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class OddSettings(Settings):
    tree: Node | None = None
    either: Postgres | Pool | None = None
    names: Names | None = None
    text_or_list: str | list[str] = ""
    commas: Annotated[list[str], BeforeValidator(_commas)] = Field(default_factory=list)
    made: Postgres = Field(default_factory=lambda: Postgres(host="made", port=7))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("TREE__BELOW", '{"name": "b"}', None),
        ("EITHER", '{"size": 3}', Pool(size=3)),
        ("NAMES", '["a"]', Names(["a"])),
        ("TEXT_OR_LIST", "123", "123"),
        ("TEXT_OR_LIST", '["1"]', ["1"]),
        ("COMMAS", "a,b", ["a", "b"]),
        ("MADE__HOST", "x", Postgres(host="x", port=7)),
    ],
)
def test_odd_types(name: str, text: str, value: Any) -> None:
    """Recursive models, unions of models, root models and default factories are supported."""
    environ = {name: text, "TREE__NAME": "a"}
    settings = load(OddSettings, environ=environ, dotenv=None).settings
    field = name.partition("__")[0].lower()
    if field == "tree":
        value = Node(name="a", below=Node(name="b"))
    assert getattr(settings, field) == value


def test_a_dotenv_file_has_the_syntax_of_a_shell(tmp_path: Path) -> None:
    """Comments, quotes, export and references to other names are supported."""
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "\ufeff# cats\nexport SERVICE_NAME='cats'\nUNRELATED=1\nNO_VALUE\n"
        'SERVICE_VERSION="${SERVICE_NAME}-${BUILD}-${MISSING:-none}${PATH:-}"\n',
        encoding="utf-8",
    )
    settings = load(Settings, environ={"BUILD": "7"}, dotenv=dotenv).settings
    assert (settings.service_name, settings.service_version) == ("cats", "cats-7-none")


def test_the_environment_is_not_changed_by_a_dotenv_file(tmp_path: Path) -> None:
    """Reading .env does not change the mapping that is passed as the environment."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("SERVICE_NAME=cats\n")
    environ: dict[str, str] = {}
    load(Settings, environ=environ, dotenv=dotenv)
    assert environ == {}


def test_a_dotenv_file_may_be_missing(tmp_path: Path) -> None:
    """No file, a directory (a virtual environment) and None have no settings."""
    for dotenv in (tmp_path / "nothing", tmp_path, None):
        assert load(Settings, environ={}, dotenv=dotenv).settings == Settings()


def test_the_dotenv_file_of_the_directory_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without an argument, .env in the working directory is read."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("HTTP_PORT=1")
    loaded = load(Settings, environ={})
    assert loaded.origins["http_port"] == Origin(".env", "HTTP_PORT")


def test_every_setting_has_an_origin() -> None:
    """Origins have the path of each setting, also of sections and of defaults."""
    origins = cats().origins
    assert origins["database.host"] == Origin("environment", "DATABASE__HOST")
    assert str(origins["database.pool.wait"]) == "default"
    assert {name.partition(".")[0] for name in origins} == set(CatsSettings.model_fields)


def test_importing_the_package_loads_no_parsers() -> None:
    """YAML, TOML and difflib are imported when they are needed."""
    code = "import sys, json, gizmopy.config; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not {"yaml", "tomllib", "difflib"} & set(json.loads(done.stdout))
