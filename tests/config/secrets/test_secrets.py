"""Secrets are not shown in errors, tracebacks, causes, reprs and reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import BaseModel, Field, SecretBytes, SecretStr, model_validator

from gizmopy.config import Loaded, Settings, load, report
from gizmopy.config.secrets.masking import is_secret_name, mask_text
from gizmopy.errors import ConfigError
from tests.config.secrets.canary import shown_by


class Pin(BaseModel):
    pin: SecretStr


class Database(BaseModel):
    host: str = "db"
    password: str = ""
    pin: SecretStr = SecretStr("")
    blob: SecretBytes = SecretBytes(b"")
    token: int = 0
    renamed: str = Field("", alias="DB_PASSWD")


class CatsSettings(Settings):
    database: Database = Database()
    credentials: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    pins: list[SecretStr] = Field(default_factory=list)
    pages: list[Pin] = Field(default_factory=list)
    api_key: str = ""
    sentry_dsn: int = 0
    db: str = Field("", alias="DB_SECRET")
    limit: int = 0


class Strict(CatsSettings):
    """A model whose validator rejects everything and quotes its input."""

    @model_validator(mode="before")
    @classmethod
    def _echo(cls, given: Any) -> Any:
        raise ValueError(f"got {given}")


class StrictAfter(CatsSettings):
    """A model whose validator rejects all valid values and quotes them unmasked."""

    @model_validator(mode="after")
    def _echo(self) -> Self:
        inner = self.database
        raise ValueError(
            f"got {inner.password} {inner.pin.get_secret_value()} {inner.renamed} "
            f"{inner.blob.get_secret_value()!r} {self.options} {self.topics}"
            f"{self.api_key} {self.credentials}"
        )


ENVIRON = {
    "DATABASE__PASSWORD": "hunter-1",
    "DATABASE__PIN": "hunter-2",
    "DATABASE__BLOB": "hunter-3",
    "DATABASE__DB_PASSWD": "hunter-4",
    "CREDENTIALS": '{"user": "hunter-5"}',
    "OPTIONS": '{"a": {"api-token": "hunter-6\\"quoted"}, "b": [{"apiKey": "hunter-7"}]}',
    "PINS": '["hunter-8"]',
    "PAGES": '[{"pin": "hunter-9"}]',
    "API_KEY": "hunter-10",
    "DB_SECRET": "hunter-11",
    "GIZMO_PUBSUB_URL": "kafka://cat:hunter-12@b1:1,b2:2?sasl_password=hunter-13&group=cats",
    "GIZMO_TOPIC_CATS": "https://cat:hunter%2D14@feed:8080/x",
    "GIZMO_TOPIC_TOKEN": "hunter-15",
}


def assert_silent(cls: type[Settings], argv: Sequence[str], environ: dict[str, str]) -> str:
    """Assert that loading fails without showing a secret, and return the text of the error."""
    with pytest.raises(ConfigError) as caught:
        load(cls, argv, environ=environ, dotenv=None)
    for text in shown_by(caught.value):
        assert "hunter" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_loaded_settings_show_no_secret() -> None:
    """The reprs of settings and of Loaded, and the report, have no secret."""
    loaded = load(CatsSettings, environ=ENVIRON, dotenv=None)
    assert loaded.settings.database.password == "hunter-1"
    assert loaded.settings.options["b"][0]["apiKey"] == "hunter-7"
    rows = report.rows(loaded)
    shown = [repr(loaded), str(loaded), repr(loaded.settings), str(loaded.settings), repr(rows)]
    for text in (*shown, report.as_text(rows), report.as_markdown(rows)):
        assert "hunter" not in text
        assert "kafka://b1:1,b2:2 *** (" in text


def test_errors_about_other_settings_show_no_secret() -> None:
    """The error, its traceback and its chain have no secret of a valid setting."""
    assert "LIMIT=x" in assert_silent(CatsSettings, [], ENVIRON | {"LIMIT": "x"})


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    """The error of a wrong secret has its name, and masks its value."""
    environ = {"SENTRY_DSN": "hunter-1", "DATABASE__TOKEN": "hunter-2"}
    text = assert_silent(CatsSettings, [], ENVIRON | environ)
    assert "SENTRY_DSN=*** (8 characters, from the environment)" in text
    assert "DATABASE__TOKEN=*** (8 characters, from the environment)" in text


@pytest.mark.parametrize("cls", [Strict, StrictAfter])
def test_the_message_of_a_validator_is_masked(cls: type[Settings]) -> None:
    """The message of a validator that quotes its input shows no secret."""
    assert "got " in assert_silent(cls, [], ENVIRON)


@pytest.mark.parametrize(
    "argv",
    [
        ["--api-key", "hunter-1", "hunter-2"],
        ["--api-key", "--hunter-1"],
        ["--api-key=hunter-1", "hunter-2"],
        ["--api-ky", "hunter-1"],
        ["--api-ky=hunter-1"],
        ["--api-ky", "hunter-1", "hunter-2"],
        ["-p", "hunter-1"],
        ["kafka://cat:hunter-1@b1"],
        ["--http-addr", "kafka://cat:hunter-1@b1", "x"],
        ["--limit", "https://cat:hunter-1@feed"],
        ["--database.token=hunter-1"],
        ["--pins=hunter-1"],
        ['--pages=[{"pin": "hunter-1"}, {}]'],
        ['--credentials={"a": ["hunter-1"]}'],
        ['--topics=["https://a:hunter-1@b"]'],
        ['--topics={"a": ["https://a:hunter-1@b"]}'],
    ],
)
def test_a_wrong_command_line_shows_no_secret(argv: list[str]) -> None:
    """No error of the command line shows a possible secret or a piece of one."""
    assert_silent(CatsSettings, [*argv, "--limit=x"], {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"database": {"password": ["hunter-1"], "pasword": "hunter-2"}}'),
        ("c.json", '{"credentials": "hunter-1", "pins": "hunter-2", "credentals": "hunter-3"}'),
        ("c.json", '{"database": {"password": "hunter-1",, }}'),
        ("c.toml", 'api_key = "hunter-1\n'),
        ("c.toml", "api_key = hunter-1\n"),
        ("c.toml", 'credentials = {"hunter-1" = 1, "hunter-1" = 2}\n'),
        (
            "c.toml",
            "credentials = {'it\\'s hunter-1' = 1, 'a\"b hunter-1' = 2, 'a\"b hunter-1' = 3}\n",
        ),
        ("c.toml", "[credentials.hunter-1]\n[credentials.hunter-1]\n"),
        ("c.toml", 'credentials = {"it\'s hunter-1" = 1, "it\'s hunter-1" = 2}\n'),
        ("c.yaml", "api_key: hunter-1: hunter-2\n"),
        ("c.yaml", "api_key: *hunter-1\n"),
        ("c.yaml", "api_key: !hunter-1 x\n"),
        ("c.yaml", "api_key: !it's-hunter-1 x\n"),
        ("c.yaml", "api_key: !!int hunter-1\n"),
        ("c.yaml", "api_key: @hunter-1\n"),
        ("c.yaml", "api_key: %hunter-1\n"),
        ("c.yaml", "? [hunter-1]\n: hunter-2\n"),
        ("c.yaml", 'api_key: "hunter-1\\q"\n'),
        ("c.yaml", "database: kafka://cat:hunter-1@b1\n"),
        ("c.yaml", "credentials:\n  a: &hunter-1 x\n  b: &hunter-1 y\n  <<: hunter-2\n"),
    ],
)
def test_a_wrong_file_shows_no_secret(name: str, text: str, tmp_path: Path) -> None:
    """Neither the error of a wrong value nor that of a parser quotes a secret of the file."""
    file = tmp_path / name
    file.write_text(text)
    assert_silent(CatsSettings, [f"--config={file}", "--limit=x"], {})


def test_a_wrong_dotenv_file_shows_no_secret(tmp_path: Path) -> None:
    """The problem of a malformed line in .env has only its number."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("API_KEY='hunter-1\nhunter-2 hunter-3\nSENTRY_DSN=hunter-4\n")
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, environ={}, dotenv=dotenv)
    assert all("hunter" not in text for text in shown_by(caught.value))


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWD", "secret", "api_token", "API_KEY", "DATABASE__PASSWORD", "dsn"),
        *("credentials", "aws-secret", "db.password", "apiKey", "secretAccessKey", "key"),
        *("db_pass", "apikey", "APIKEY", "tokens", "passphrase", "cookie", "pwd", "dbpassword"),
        *("authorization", "auth", "bearer", "sig", "signature", "jwt", "private_key", "pin"),
        *("secret_key_base", "password_old", "token2", "token_2", "otp", "salt", "webhook"),
        *("connection_string", "connectionString", "sessionid", "githubToken", "Pass_Word", "pem"),
        *("client_secret", "encryption_keys", "cred", "passcode", "hmac", "psk", "credentialsData"),
    ],
)
def test_names_that_are_typical_of_secrets(name: str) -> None:
    """The last significant word decides, in any case and with any separator."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("monkey", "keyboard", "password_length", "http_port", "host", "", "_", "compass"),
        *("bypass", "author", "signal", "token_url", "tokenizer", "keys_file", "spin", "passenger"),
    ],
)
def test_names_that_are_not_typical_of_secrets(name: str) -> None:
    """A name that only contains the letters of such a word is not one."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kafka://b1:9092,b2:9092?group=cats", "kafka://b1:9092,b2:9092?group=cats"),
        ("https://feed:8080/x?a=b#c", "https://feed:8080/x?a=b#c"),
        ("https://TOKEN@feed/x", "https://***@feed/x"),
        ("kafka://cat:pw@b1", "kafka://***@b1"),
        ("redis://:pw@b1", "redis://***@b1"),
        ("kafka://cat:p@/w:x?y#z@b1/x", "kafka://***@b1/x"),
        ("amqp://cat@home.org:p w@b1", "amqp://***@b1"),
        ("kafka://a:pw@b1,b:pw@b2", "kafka://***@b2"),
        ("cat:pw@b1", "***@b1"),
        ("sqs://q?secret_key=pw&region=x", "sqs://q?secret_key=***&region=x"),
        ("https://store/x?sv=1&sig=pw%3D", "https://store/x?sv=1&sig=***"),
        ("host=db password='p w' user=cat", "host=db password=*** user=cat"),
        ('{"user": "cat", "password": "p w"}', '{"user": "cat", "password": ***}'),
        ("Authorization: Bearer pw", "Authorization: *** ***"),
        ("sent Bearer pw, and left", "sent Bearer ***, and left"),
        ("password: pw", "password: ***"),
        ("a -----BEGIN RSA PRIVATE KEY-----\npw\n-----END RSA PRIVATE KEY----- b", "a *** b"),
        ("-----BEGIN PRIVATE KEY-----\npw", "***"),
        ("plain text: a@b", "plain text: a@b"),
    ],
)
def test_free_text_is_masked(text: str, expected: str) -> None:
    """Logins, named values and PEM keys are masked, with any characters."""
    assert mask_text(text) == expected


def test_origins_hold_no_values() -> None:
    """The origins that load returns have names, and no values."""
    loaded: Loaded[CatsSettings] = load(CatsSettings, environ=ENVIRON, dotenv=None)
    assert "hunter" not in repr(loaded.origins)
