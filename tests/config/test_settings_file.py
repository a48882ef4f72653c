"""A settings file that other users can change is used, with a warning in the log."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from gizmopy.config import Settings, load


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        (0o600, ""),
        (0o644, ""),
        (0o664, "its group may write it"),
        (0o646, "every user may write it"),
        (0o666, "its group and every user may write it"),
    ],
)
@pytest.mark.parametrize("name", [".env", "c.yaml"])
def test_a_file_that_others_may_write_is_logged(
    name: str, mode: int, warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning has the path of the file."""
    file = tmp_path / name
    file.write_text("HTTP_PORT=1\n" if name == ".env" else "http_port: 1\n")
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        argv = [] if name == ".env" else [f"--config={file}"]
        loaded = load(Settings, argv, environ={}, dotenv=file if name == ".env" else None)
    assert loaded.settings.http_port == 1
    assert [warning in message and str(file) in message for message in caplog.messages] == (
        [True] if warning else []
    )


def test_a_file_of_another_user_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is neither root nor the user of the daemon."""
    file = tmp_path / ".env"
    file.write_text("HTTP_PORT=1\n")
    if os.geteuid() == 0:
        os.chown(file, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    load(Settings, environ={}, dotenv=file)
    (message,) = caplog.messages
    assert " owns it; chown it" in message
