"""Secrets in settings are masked in every log line, in every spelling."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import pytest
from pydantic import BaseModel, Field, SecretBytes, SecretStr

from gizmopy import Shown
from gizmopy.config import Settings, load, report
from gizmopy.config.secrets.known import known_secrets
from gizmopy.config.secrets.redaction import redacted_model
from gizmopy.errors import ConfigError
from gizmopy.observe import logs
from tests.config.secrets.canary import CANARIES, UNREADABLE, assert_unseen

ROOT = Path(__file__).parents[3]


class Database(BaseModel):
    password: str = ""
    url: str = ""


class CatsSettings(Settings):
    pin: SecretStr = SecretStr("")
    blob: SecretBytes = SecretBytes(b"")
    database: Database = Database()
    options: dict[str, Any] = Field(default_factory=dict)
    pem: str = ""
    greeting: str = ""


def test_secrets_are_found_by_type_by_name_and_in_urls() -> None:
    """A secret has a type or a name for secrets, or is a login or a parameter of a URL."""
    settings = CatsSettings(
        pin=SecretStr("hunter-1"),
        blob=SecretBytes(b"hunter-2"),
        database=Database(
            password="hunter-3", url="pg://cat:hunter-4@a,cat:hunter-5@b?sig=hunter-6"
        ),
        options={"a": [{"api-key": "hunter-7"}], "token": 123456},
        topics={"CATS": "kafka://cat:hunter%2D8@b1"},
        pem="-----BEGIN-----\nhunter-9-and-more\n",
        greeting="good morning",
        debug_token=SecretStr("short"),
    )
    found = known_secrets(settings)
    assert {f"hunter-{number}" for number in range(1, 9)} <= set(found)
    assert {"hunter-9-and-more", "123456", "hunter%2D8"} <= set(found)
    assert not {"good morning", "short", "cat", ""} & set(found)
    assert list(found) == sorted(found, key=len, reverse=True)


class Access(Enum):
    ALL = "everyone"


class OrdinarySettings(Settings):
    auth: Literal["required", "optional"] = "required"
    bearer: Access = Access.ALL
    login_token: timedelta = timedelta(minutes=5)
    signing_key: Annotated[str, Shown] = ""
    webhook: Annotated[str, Shown] = ""
    pin: Annotated[SecretStr, Shown] = SecretStr("")


def test_marked_fields_and_choices_are_not_secrets() -> None:
    """A marked field or a choice is not masked in the log, not even with a typical name."""
    settings = OrdinarySettings(
        tls_cert="/etc/cats/tls.pem",
        tls_key="/etc/cats/tls.key",
        signing_key="/etc/cats/signing.key",
        webhook="https://cat:hunter-1@hooks.example.com/x",
        pin=SecretStr("hunter-2"),
    )
    assert set(known_secrets(settings)) == {
        *("hunter-1", "hunter-2", "cat:hunter-1", "cat%3Ahunter-1", "cat%253Ahunter-1"),
    }


@pytest.mark.parametrize("log_json", [True, False])
@pytest.mark.parametrize("kind", sorted(set(CANARIES) - set(UNREADABLE)))
def test_a_log_line_masks_secrets(
    kind: str, log_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message, extras and tracebacks are masked, also as repr and quoted for a URL."""
    secret = CANARIES[kind]
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    settings = CatsSettings(pin=SecretStr(secret))
    with logs.configured(log_json=log_json, secrets=known_secrets(settings)):
        logger = logging.getLogger("cats")
        logger.info("got %s, %r and %s", secret[:2000], secret[:2000], quote(secret[:2000]))
        for text in (secret, repr(secret), quote(secret, safe=""), json.dumps(secret)):
            if len(text) < 2000:
                try:
                    raise ValueError(f"wrong: {text}")
                except ValueError:
                    logger.exception("with %s", text, extra={"given": text, "list": [text]})
    if len(secret) < 2000:
        assert_unseen(output.getvalue())
        assert "***" in output.getvalue()


def test_a_daemon_that_cannot_start_does_not_log_the_password(tmp_path: Path) -> None:
    """An error of the service quotes it in the message, the traceback and the cause."""
    (tmp_path / "cats.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from pydantic import SecretStr\n"
        "from gizmopy import Service, Settings\n"
        "class CatsSettings(Settings):\n"
        "    password: SecretStr\n"
        "class Cats(Service):\n"
        "    settings: CatsSettings\n"
        "    @asynccontextmanager\n"
        "    async def lifespan(self):\n"
        "        secret = self.settings.password.get_secret_value()\n"
        "        try:\n"
        "            raise KeyError(secret)\n"
        "        except KeyError as error:\n"
        "            raise RuntimeError(f'cannot log in with {secret}') from error\n"
        "        yield\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gizmopy", "run", "cats:Cats"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HTTP_PORT": "0",
            "PASSWORD": CANARIES["quotes"],
        },
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert_unseen(output)
    assert "RuntimeError: cannot log in with ***" in output
    assert "KeyError: " in output


def test_an_interpolated_secret_of_dotenv_is_not_shown(tmp_path: Path) -> None:
    """An error never quotes a value with ${NAME}; a report hides it if NAME is for a secret."""
    file = tmp_path / ".env"
    environ = {"DB_PASS": "hunter-1", "PORTS": "hunter-2"}
    file.write_text("VIA=${DB_PASS}\nHTTP_PORT=${DB_PASS}\nGIZMO_READ_TIMEOUT=x${PORTS}\n")
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, environ=environ, dotenv=file)
    assert "hunter" not in str(caught.value)
    assert f"HTTP_PORT=*** (8 characters, from {file}): should be" in str(caught.value)
    file.write_text(
        "VIA=${DB_PASS}\nSERVICE_NAME=cats-${VIA}\nSERVICE_VERSION=${HOSTNAME}\n"
        "HTTP_ADDR=${NONE:-localhost}\n"
    )
    loaded = load(CatsSettings, environ=environ | {"HOSTNAME": "h-1"}, dotenv=file)
    shown = redacted_model(loaded.settings, loaded.origins)
    assert shown["service_name"] == f"*** (13 characters, from {file})"
    assert (shown["service_version"], shown["http_addr"]) == ("h-1", "localhost")
    assert "hunter" not in report.as_text(report.rows(loaded))
