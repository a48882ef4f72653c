"""A secret has no flag: every user of the machine can read the command line of a process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, SecretStr

from gizmopy.config import Settings, Shown, load, report
from gizmopy.errors import ConfigError

SECRET = "Qzhunter2"


class Database(BaseModel):
    host: str = ""
    password: str = ""


class CatsSettings(Settings):
    pin: SecretStr = SecretStr("")
    pins: list[SecretStr] = Field(default_factory=list)
    db_pass: str = ""
    max_tokens: int = 0
    partition_key: Annotated[str, Shown] = ""
    greeting: str = ""
    database: Database = Database()


@pytest.mark.parametrize(
    ("argv", "flag", "variable"),
    [
        ([f"--debug-token={SECRET}"], "--debug-token", "GIZMO_DEBUG_TOKEN"),
        (["--debug-token", SECRET], "--debug-token", "GIZMO_DEBUG_TOKEN"),
        (["--debug-token", f"--{SECRET}"], "--debug-token", "GIZMO_DEBUG_TOKEN"),
        (["--kafka.sasl-password", SECRET], "--kafka.sasl-password", "KAFKA_SASL_PASSWORD"),
        (["--pin", SECRET], "--pin", "PIN"),
        ([f'--pins=["{SECRET}"]'], "--pins", "PINS"),
        (["--db-pass", SECRET], "--db-pass", "DB_PASS"),
        (["--database.password", SECRET], "--database.password", "DATABASE__PASSWORD"),
        (["--db-pass"], "--db-pass", "DB_PASS"),
    ],
)
def test_a_secret_on_the_command_line_is_an_error_with_the_remedy(
    argv: list[str], flag: str, variable: str
) -> None:
    """The error has the variable and the file; the value is not parsed as a flag, and not shown."""
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, argv, environ={}, dotenv=None)
    (problem,) = caught.value.problems
    assert (problem.name, problem.source) == (flag, "command line")
    assert problem.remedy == f"set {variable}, or write it into the file that --config names"
    assert "hunter" not in str(caught.value)


def test_other_settings_have_flags(tmp_path: Path) -> None:
    """Numbers with the name of a secret, marked text, other text and paths of keys have flags."""
    argv = ["--max-tokens=5", "--partition-key=a", "--greeting=hi", "--tls-key=k", "--tls-cert=c"]
    settings = load(CatsSettings, argv, environ={}, dotenv=None).settings
    assert (settings.max_tokens, settings.partition_key) == (5, "a")
    assert (settings.greeting, settings.tls_key) == ("hi", "k")


def test_the_report_lists_no_flag_for_a_secret() -> None:
    """Neither the report nor the error for a missing secret has a flag."""

    class Required(Settings):
        password: SecretStr

    flags = {row.name: row.flag for row in report.rows(CatsSettings)}
    assert flags["debug_token"] == flags["kafka.sasl_password"] == flags["db_pass"] == ""
    assert flags["max_tokens"] == "--max-tokens"
    with pytest.raises(ConfigError, match=r"is required; set PASSWORD$"):
        load(Required, environ={}, dotenv=None)
