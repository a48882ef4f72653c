"""Settings as values: their defaults, their validation and their repr."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

import gizmopy.config
from gizmopy.config import Settings
from gizmopy.config.backends.kafka import KafkaSettings
from gizmopy.config.channel_names import channel_key
from gizmopy.config.sections.base import SectionBase


def test_defaults() -> None:
    """By default a daemon listens on port 8080 of the loopback and uses memory://."""
    assert Settings().model_dump() == {
        "service_name": "",
        "service_version": "",
        "http_addr": "127.0.0.1",
        "http_port": 8080,
        "log_level": "info",
        "log_json": None,
        "log_file": "",
        "http_access_log": "",
        "max_header_bytes": 65536,
        "max_body_bytes": 1_048_576,
        "min_send_rate": 2048,
        "read_timeout": timedelta(seconds=10),
        "idle_timeout": timedelta(seconds=120),
        "publish_linger": timedelta(0),
        "publish_stall": timedelta(seconds=5),
        "shutdown_timeout": timedelta(seconds=18),
        "drain_delay": None,
        "health_check_path": "/status.txt",
        "metrics_path": "/metrics",
        "tls_cert": "",
        "tls_key": "",
        "tls_client_ca": "",
        "trusted_proxies": (),
        "proxy_protocol": False,
        "log_fields": "plain",
        "access_log_format": "own",
        "log_probes": False,
        "max_concurrent_requests": 0,
        "max_connections": None,
        "max_requests_per_connection": 0,
        "max_connection_age": timedelta(0),
        "handler_timeout": timedelta(0),
        "write_timeout": timedelta(seconds=10),
        "termination_grace": timedelta(seconds=30),
        "health_check_type": "simple",
        "health_interval": timedelta(seconds=10),
        "liveness_stall": timedelta(seconds=30),
        "blocking_warning": timedelta(milliseconds=500),
        "admin_port": None,
        "admin_addr": "127.0.0.1",
        "debug": None,
        "debug_token": SecretStr(""),
        "enable_pprof": False,
        "openapi": True,
        "cors_origins": (),
        "allowed_hosts": (),
        "hsts": "",
        "json_content_type": "application/json",
        "loop": "auto",
        "pubsub_url": "memory://",
        "topics": {},
        "subscriptions": {},
        "kafka": KafkaSettings().model_dump(),
    }


def test_construction_reads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings that code constructs read neither the environment nor a .env file."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("HTTP_PORT=1\n")
    monkeypatch.setenv("HTTP_PORT", "2")
    monkeypatch.setenv("SERVICE_NAME", "other")
    assert Settings(http_addr="::").http_port == 8080
    assert Settings().service_name == ""


def test_an_argument_is_a_fields_name_or_its_environment_name() -> None:
    """A field's name, its environment name and its second environment name mean the same."""
    assert Settings(http_port=0).http_port == 0
    for name in ("HTTP_PORT", "PORT"):
        given: dict[str, Any] = {name: 0}
        assert Settings(**given).http_port == 0


def test_unknown_arguments_are_errors() -> None:
    """A misspelt argument is an error."""
    given: dict[str, Any] = {"htp_port": 0}
    with pytest.raises(ValidationError, match="htp_port"):
        Settings(**given)


def test_settings_do_not_change() -> None:
    """Assigning to a field fails."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "http_port", 1)  # noqa: B010  mypy knows it, too


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ("INFO", "info"),
        ("warn", "warning"),
        ("Warning", "warning"),
        ("error", "error"),
        ("critical", "critical"),
        ("fatal", "critical"),
        ("PANIC", "critical"),
        ("trace", "debug"),
        (" debug ", "debug"),
    ],
)
def test_log_levels_of_gizmo_and_python_are_valid(given: Any, level: str) -> None:
    """The case of a level does not matter; Gizmo's levels are mapped to Python's."""
    assert Settings(log_level=given).log_level == level


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("-", "stdout"),
        ("stdout", "stdout"),
        (" STDOUT ", "stdout"),
        ("Stderr", "stderr"),
        ("", ""),
        ("./-", "./-"),
        ("cats.log", "cats.log"),
    ],
)
def test_outputs_of_the_log(given: str, output: str) -> None:
    """``-`` is standard output, and no file has the name of an output."""
    settings = Settings(log_file=given, http_access_log=given)
    assert (settings.log_file, settings.http_access_log) == (output, output)


def test_the_log_has_no_off() -> None:
    """Only the access log can be off: the log would otherwise be a file with that name."""
    assert Settings(http_access_log="OFF").http_access_log == "off"
    with pytest.raises(ValidationError, match="set APP_LOG_LEVEL=critical, or HTTP_ACCESS_LOG=off"):
        Settings(log_file="off")


@pytest.mark.parametrize(
    "wrong",
    [
        {"http_port": -1},
        {"http_port": 65536},
        {"http_port": "http"},
        {"log_level": "loud"},
        {"log_level": 3},
        {"max_header_bytes": 0},
        {"max_connections": 0},
        {"max_connection_age": "-1s"},
        {"max_body_bytes": 0},
        {"read_timeout": "-1s"},
        {"drain_delay": "soon"},
        {"loop": "curio"},
        {"health_check_path": "status"},
        {"metrics_path": ""},
        {"topics": "kafka://"},
        {"topics": {"cats": 5}},
        {"topics": {"a.b": "x", "a-b": "y"}},
    ],
)
def test_wrong_values_are_errors(wrong: dict[str, Any]) -> None:
    """A value outside the range of its field is an error."""
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_channels_are_spelled_as_the_environment_spells_them() -> None:
    """A channel's key has capital letters, digits and underscores."""
    settings = Settings(topics={"cats.v1-new": "memory://"})
    assert settings.topics == {"CATS_V1_NEW": "memory://"}
    assert channel_key("cats.é/1") == "CATS___1"


def test_the_channels_of_a_default_are_spelled_so_too() -> None:
    """The names in the default of a subclass are normalized."""

    class Cats(Settings):
        topics: dict[str, str] = {"cats": "memory://"}  # noqa: RUF012  pydantic copies it

    assert Cats().topics == {"CATS": "memory://"}


def test_every_field_is_described_in_one_line() -> None:
    """The generated documentation has a description of each setting."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description
        assert field.description.endswith("."), name


def test_each_standard_setting_belongs_to_one_section() -> None:
    """The sections have no field in common, and together they have all fields of Settings."""
    sections = [base for base in Settings.__bases__ if issubclass(base, SectionBase)]
    names = [name for section in sections for name in section.model_fields]
    assert len(names) == len(set(names))
    assert set(names) == set(Settings.model_fields)


def test_a_field_named_config_is_an_error() -> None:
    """Its flag would be --config, which names the settings file."""
    with pytest.raises(TypeError, match=r"Cats\.config: --config names the file"):
        type("Cats", (Settings,), {"__annotations__": {"config": str}, "config": ""})


class Database(BaseModel):
    host: str = "db"
    password: str = ""
    pin: SecretStr = SecretStr("")
    options: dict[str, str] = {}


class CatsSettings(Settings):
    database: Database = Database()
    api_key: str = ""
    credentials: dict[str, str] = {}  # noqa: RUF012  pydantic copies it


def test_the_repr_masks_secrets() -> None:
    """repr and str mask secrets in fields, nested models, dicts and URLs."""
    settings = CatsSettings(
        database=Database(
            password="hunter1", pin=SecretStr("hunter2"), options={"token": "hunter3"}
        ),
        api_key="hunter4",
        credentials={"user": "hunter5"},
        pubsub_url="kafka://cat:hunter6@b1",
        topics={"cats": "https://cat:hunter7@feed/x"},
    )
    for text in (repr(settings), str(settings), f"{settings}"):
        assert "hunter" not in text
        assert "pubsub_url='kafka://b1 *** (22 characters)'" in text
        assert "'host': 'db'" in text
        assert "api_key='*** (7 characters)'" in text
        assert "http_port=8080" in text


def test_an_error_of_construction_does_not_show_the_values() -> None:
    """pydantic's error for wrong arguments has no values."""
    given: dict[str, Any] = {"api_key": ["hunter1"], "database": {"password": ["hunter2"]}}
    with pytest.raises(ValidationError) as caught:
        CatsSettings(**given)
    assert "hunter" not in f"{caught.value} {caught.value!r}"


def test_the_exported_names_are_sorted_and_exist() -> None:
    """``__all__`` of gizmopy.config is sorted, and each name in it exists."""
    names = gizmopy.config.__all__
    assert names == sorted(names)
    assert all(hasattr(gizmopy.config, name) for name in names)


def test_tls_needs_a_certificate_and_its_key() -> None:
    """If only one of TLS_CERT and TLS_KEY is set, the error names both."""
    with pytest.raises(ValidationError, match="TLS_CERT is set without TLS_KEY"):
        Settings(tls_cert="cert.pem")
    with pytest.raises(ValidationError, match="TLS_KEY is set without TLS_CERT"):
        Settings(tls_key="key.pem")
    with pytest.raises(ValidationError, match="TLS_CLIENT_CA is set without TLS_CERT and TLS_KEY"):
        Settings(tls_client_ca="clients.pem")


def test_the_proxy_protocol_needs_proxies_and_no_tls() -> None:
    """GIZMO_PROXY_PROTOCOL needs a trusted proxy, and no TLS on the same port."""
    with pytest.raises(ValidationError, match="set without GIZMO_TRUSTED_PROXIES"):
        Settings(proxy_protocol=True)
    environ = {"proxy_protocol": True, "GIZMO_TRUSTED_PROXIES": "10.0.0.0/8"}
    assert Settings.model_validate(environ).proxy_protocol
    with pytest.raises(ValidationError, match="end TLS in the proxy"):
        Settings.model_validate(environ | {"tls_cert": "cert.pem", "tls_key": "key.pem"})


@pytest.mark.parametrize(
    "text", ["", "max-age=0", "Max-Age=31536000;includeSubDomains", "preload ; max-age=1"]
)
def test_hsts_is_a_value_of_its_header(text: str) -> None:
    """GIZMO_HSTS has the syntax of RFC 6797 section 6.1."""
    assert Settings(hsts=text).hsts == text


@pytest.mark.parametrize(
    "text",
    [
        *("1", "365d", "max-age", "max-age=", "max-age=-1", "max-age=1;max-age=2", "preload"),
        *("max-age=1;preload;preload", "max-age=1;", "max-age=1, preload", "max-age=1;sub"),
        *("max-age=1\r\nX: y", "max-age=1;\r\n preload", "max-age=\u0661", "max-age=99999999999"),
    ],
)
def test_hsts_that_a_browser_would_ignore_is_an_error(text: str) -> None:
    """A browser ignores a malformed header, so a mistake in GIZMO_HSTS ends the start."""
    with pytest.raises(ValidationError, match="is not a valid value of"):
        Settings(hsts=text)


def test_gizmos_esx_health_check_is_lb() -> None:
    """GIZMO_HEALTH_CHECK_TYPE=esx and an empty one have the meaning of Gizmo."""
    environ = {"GIZMO_HEALTH_CHECK_TYPE": "ESX"}
    assert Settings.model_validate(environ).health_check_type == "lb"
    assert Settings.model_validate({"health_check_type": ""}).health_check_type == "simple"


@pytest.mark.parametrize("name", ["read_timeout", "write_timeout", "idle_timeout"])
def test_a_client_timeout_is_above_zero(name: str) -> None:
    """A timeout of 0 would close every connection, so it is an error."""
    with pytest.raises(ValidationError, match="must be above 0; write a duration"):
        Settings.model_validate({name: "0s"})
