"""Variables that look like settings and are none are logged, with what to write instead."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, Field
from pydantic_settings import SettingsConfigDict

from gizmopy.config import Settings, load
from gizmopy.config.unknown_names import GIZMO_NAMES

ROOT = Path(__file__).parents[2]


class Database(BaseModel):
    host: str = ""


@dataclasses.dataclass
class Account:
    user: str = ""


class CatsSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="CATS_")
    database: Database = Database()
    account: Account = Field(default_factory=Account)
    limits: dict[str, int] = {}  # noqa: RUF012  pydantic copies it


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("GIZMO_SHUTDOWN_TIMEOT", "it is not a setting; did you mean GIZMO_SHUTDOWN_TIMEOUT?"),
        ("gizmo_shutdown_timeot", "it is not a setting; did you mean GIZMO_SHUTDOWN_TIMEOUT?"),
        ("GIZMO_HTTP_PORT", "it is not a setting; did you mean HTTP_PORT?"),
        ("GIZMO_ZZZZZZ", "it is not a setting; unset it"),
        ("GIZMO_CONFIG_FILE", "it is not a setting; did you mean GIZMO_CONFIG?"),
        ("GIZMO_TOPIC_", "it is not a setting"),
        ("CATS_DATABASE__HOTS", "it is not a setting; did you mean CATS_DATABASE__HOST?"),
        ("CATS_ACCOUNT__USR", "CATS_ACCOUNT has no such part; unset it"),
        ("CATS_ACCOUNT__USER__X", "CATS_ACCOUNT has no such part; unset it"),
        ("CATS_LIMIT", "it is not a setting; did you mean CATS_LIMITS?"),
        ("KAFKA_BROKER_HOST", "it is not a setting; did you mean KAFKA_BROKER_HOSTS?"),
        (
            "GIZMO_ROUTER_TYPE",
            "of Gizmo that gizmopy does not have, because there is one router",
        ),
        ("METRICS_NAMESPACE", "because the names of metrics are the same for every daemon; unset"),
        ("RPC_PORT", "because this version has no gRPC"),
    ],
)
@pytest.mark.parametrize("source", ["environment", ".env", "secrets_dir"])
def test_a_name_that_looks_like_a_setting_is_logged(
    name: str, text: str, source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning has the name, the source and the nearest name, or the reason of Gizmo's names."""
    environ, dotenv, place = {}, tmp_path / ".env", "the environment"
    if source == "environment":
        environ[name] = "hunter2"
    elif source == ".env":
        dotenv.write_text(f"{name}=hunter2\n")
        place = str(dotenv)
    else:
        folder = tmp_path / "secrets"
        folder.mkdir()
        (folder / name).write_text("hunter2")
        environ["GIZMO_SECRETS_DIR"] = place = str(folder)
    load(CatsSettings, environ=environ, dotenv=dotenv)
    (message,) = caplog.messages
    assert message.startswith(f"{name} in {place} has no effect: ")
    assert text in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIZMO_SERVICE_HOST", "10.0.0.1"),
        ("GIZMO_CATS_SERVICE_PORT_HTTP", "80"),
        ("GIZMO_CATS_PORT", "tcp://10.0.0.1:80"),
        ("GIZMO_CATS_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("HTTP_PROT", "1"),
        ("PATH", "/bin"),
        ("AWS_REGION", "x"),
        ("GIZMO_CONFIG", ""),
        ("GIZMO_SECRETS_DIR", ""),
        ("GIZMO_TOPIC_ANY", "memory://"),
        ("CATS_LIMITS__ANY", "1"),
        ("CATS_ACCOUNT__USER", "1"),
    ],
)
def test_a_name_of_another_program_is_not_logged(
    name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes' variables for a service named gizmo or kafka, and all others, do no harm."""
    load(CatsSettings, environ={name: value}, dotenv=None)
    assert caplog.messages == []


def test_a_similar_name_in_a_file_of_the_service_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """.env is the service's own, so any misspelt name in it is logged, and no other."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("HTTP_PROT=1\nDOCKER_TAG=2\n")
    load(CatsSettings, environ={}, dotenv=dotenv)
    (message,) = caplog.messages
    assert message == (
        f"HTTP_PROT in {dotenv} has no effect: it is not a setting; did you mean HTTP_PORT?"
    )


def test_a_second_spelling_with_another_value_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The spelling in capitals wins, and the other one is not ignored in silence."""
    environ = {"http_port": "1", "HTTP_PORT": "2", "http_addr": "::", "HTTP_ADDR": "::"}
    assert load(CatsSettings, environ=environ, dotenv=None).settings.http_port == 2
    assert caplog.messages == [
        "http_port in the environment has no effect, because HTTP_PORT is set"
    ]


def test_a_setting_of_that_name_is_not_gizmos(caplog: pytest.LogCaptureFixture) -> None:
    """A service may declare a name that Gizmo had."""

    class Cats(Settings):
        metrics_namespace: str = ""

    settings = load(Cats, environ={"METRICS_NAMESPACE": "a"}, dotenv=None).settings
    assert settings.metrics_namespace == "a"
    assert caplog.messages == []


def test_the_reasons_are_those_of_the_page_about_gizmo() -> None:
    """Each name that docs/migration/gizmo.md calls out has the same reason here."""
    text = (ROOT / "docs/migration/gizmo.md").read_text().replace("`", "")
    rows = re.findall(r"^\| (\w+) \| out \| because (.+) \|$", text, flags=re.M)
    variables = {name: reason for name, reason in rows if re.fullmatch(r"[A-Z_]+", name)}
    assert len(variables) == 14
    for name, reason in variables.items():
        assert GIZMO_NAMES[name] in reason


def _run(cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gizmopy", "run", "tests.cats:Cats"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HTTP_PORT": "0", **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_daemon_logs_it_in_the_format_of_the_log(tmp_path: Path) -> None:
    """Every line on standard error is JSON, also one about a setting."""
    (tmp_path / ".env").write_text("not a setting\n")
    done = _run(tmp_path, GIZMO_ROUTER_TYPE="x", TLS_CERT="none.pem", TLS_KEY="none.pem")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [line["level"] for line in lines[:2]] == ["WARNING", "WARNING"]
    assert lines[0]["message"] == ".env:1 is ignored: it is not NAME=value"
    assert lines[1]["message"].startswith("GIZMO_ROUTER_TYPE in the environment has no effect: ")


def test_a_daemon_prints_it_before_an_error(tmp_path: Path) -> None:
    """If the settings are wrong, there is no log yet."""
    done = _run(tmp_path, GIZMO_LOP="uvloop", GIZMO_LOOP="x")
    first, *others = done.stderr.splitlines()
    assert done.returncode == 2
    assert first.startswith("gizmopy: warning: GIZMO_LOP in the environment has no effect: ")
    assert others[0] == "gizmopy: 1 setting is invalid:"
