"""Errors about the arguments of a command quote no value: it may be a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from gizmopy.cli import main

SECRET = "Qzhunter2"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["healthcheck", f"--pasword={SECRET}"], "unrecognized arguments: --pasword"),
        (["healthcheck", "--pasword", SECRET, SECRET], "unrecognized arguments: --pasword, "),
        (["healthcheck", "a", SECRET], "unrecognized arguments: argument 1, argument 2"),
        (["healthcheck", f"-p{SECRET}"], "unrecognized arguments: argument 1"),
        (["healthcheck", f"--probe={SECRET}"], "argument --probe: invalid choice: ***"),
        (["healthcheck", "--probe", "livenes"], "invalid choice: 'livenes'"),
        (["healthcheck", f"--timeout={SECRET}"], "argument --timeout: invalid float value: ***"),
        (["healthcheck", f"cat:{SECRET}@host"], "the URL is not an address; write it as"),
        (["redrive", "dead", f"--limit={SECRET}"], "argument --limit: invalid int value: ***"),
        (["redrive", "dead", "--wait", SECRET], "argument --wait: invalid float value: ***"),
        (["redrive", "dead", f"--dry-run={SECRET}"], "argument --dry-run: ignored explicit argu"),
        ([f"--pasword={SECRET}", "--x", SECRET], "invalid choice: ***"),
        ([SECRET], "invalid choice: ***"),
        (["confg"], "invalid choice: 'confg' (choose from "),
    ],
)
def test_no_value_is_quoted(
    argv: list[str], message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The error has the flag, or the position of the argument."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    output = "".join(capfd.readouterr())
    assert "hunter" not in output
    assert message in output


@pytest.mark.parametrize(
    "argv",
    [
        ["config", f"--pasword={SECRET}"],
        ["config", "--pasword", SECRET],
        ["config", f"--api-kye={SECRET}"],
        ["config", f"-p{SECRET}"],
        ["config", "--http-port", "1", SECRET],
        ["redrive", "dead", f"--pasword={SECRET}"],
        ["redrive", "dead", "--url", f"kafka://u:{SECRET}/x@host"],
        ["redrive", "dead", "--url", f"kafka://u:{SECRET}"],
        ["redrive", "dead", "--wait=0.1", "--url", f"kafka://127.0.0.1:1?{SECRET}"],
        ["redrive", "dead", "--url", f"kafka://host?client_id={SECRET}&{SECRET}=1"],
        ["redrive", "dead", "--url", f"kafka://host?sasl_password={SECRET}&session_timeout=x"],
        ["healthcheck", f"http://cat:{SECRET}@localhost:1"],
        ["healthcheck", f"http://\udcff{SECRET}:1?token={SECRET}"],
    ],
)
def test_no_mistake_shows_a_secret(
    argv: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings and URLs are not quoted either, and no error is a traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(argv) != 0
    output = "".join(capfd.readouterr())
    assert "hunter" not in output
    assert output
    assert "Traceback" not in output
