"""The syntax of ``.env``: quotes, dollars, references, and lines that are not NAME=value."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from gizmopy.config import Settings, load
from gizmopy.errors import ConfigError, ConfigProblem


class CatsSettings(Settings):
    tail: str = ""
    password: SecretStr = SecretStr("")


def tail(line: str, environ: dict[str, str] | None = None, *, folder: Path) -> str:
    """Return the value of TAIL in a file with the line."""
    (folder / ".env").write_text(line)
    return load(CatsSettings, environ=environ or {}, dotenv=folder / ".env").settings.tail


def problem(line: str, *, folder: Path) -> ConfigProblem:
    """Return the only problem of a file with the line."""
    with pytest.raises(ConfigError) as caught:
        tail(line, folder=folder)
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("TAIL='${HOME}x'", "${HOME}x"),
        ("TAIL='$$'", "$$"),
        (r"TAIL='a\nb\\c'", r"a\nb\\c"),
        (r"TAIL='it\'s'", "it's"),
        ("TAIL=p@$$word", "p@$word"),
        ("TAIL=p@ss$${w0rd}", "p@ss${w0rd}"),
        ('TAIL="$${HOME}"', "${HOME}"),
        (r'TAIL="\${HOME}"', "${HOME}"),
        ("TAIL=$HOME", "$HOME"),
        ("TAIL=a$", "a$"),
        ("TAIL=${HOME}x", "/catx"),
        ('TAIL="${HOME}x"', "/catx"),
        ("TAIL=${NONE:-long}", "long"),
        ("TAIL=${NONE-long}", "long"),
        ("TAIL=${EMPTY:-long}", "long"),
        ("TAIL=x${EMPTY}", "x"),
        ("TAIL=x${EMPTY-long}", "x"),
        ("TAIL=x${NONE:-}", "x"),
        ("A=1\nTAIL=${A}${A}", "11"),
        ("HOME=/here\nTAIL=${HOME}", "/here"),
        ("A='${HOME}'\nTAIL=${A}", "${HOME}"),
        ('TAIL="a\\tb\\"c\\\\"', 'a\tb"c\\'),
        ('TAIL="a\nb"', "a\nb"),
        ("TAIL='a\nb'  # c", "a\nb"),
        ("TAIL=a#b # c", "a#b"),
        ("TAIL = a b ", "a b"),
        ("  export TAIL=a\r\n", "a"),
        ("tail=lower", "lower"),
        ("TAIL=a\nTAIL=b", "b"),
        ("TAIL='a=b'", "a=b"),
        ("TAIL=a=b", "a=b"),
    ],
)
def test_values(line: str, value: str, tmp_path: Path) -> None:
    """Single quotes are literal, ``$$`` is a dollar, and ``${NAME}`` is a variable."""
    assert tail(line, {"HOME": "/cat", "EMPTY": ""}, folder=tmp_path) == value


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("TAIL=p@ss${w0rd}", 1),
        ('\n# cats\nTAIL="p@ss${w0rd}"', 3),
        ("A=${w0rd}\nTAIL=${A}", 2),
        ("TAIL=${w0rd", 1),
        ("TAIL=${}", 1),
        ("TAIL=${w0rd:?gone}", 1),
        ("TAIL=${a b}", 1),
        ("tail=${w0rd}", 1),
    ],
)
def test_a_reference_to_an_unknown_name_ends_the_start(
    line: str, number: int, tmp_path: Path
) -> None:
    """No value is cut: the problem has the file, the line and the remedy, and no part of it."""
    found = problem(line, folder=tmp_path)
    assert found.source == f"{tmp_path / '.env'}:{number}"
    assert found.name.upper() == "TAIL"
    assert found.reason.startswith("has a ${")
    assert "$${" in found.remedy
    assert "w0rd" not in str(found)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("TAIL='a", "has a quote that is not closed"),
        ('TAIL="a', "has a quote that is not closed"),
        ("TAIL='a\\'", "has a quote that is not closed"),
        ("TAIL='a'b", "has text after its closing quote"),
        ('TAIL="a" b', "has text after its closing quote"),
    ],
)
def test_a_malformed_value_ends_the_start(line: str, reason: str, tmp_path: Path) -> None:
    """A value with an open quote is not used in part."""
    found = problem(line, folder=tmp_path)
    assert (found.name, found.source) == ("TAIL", f"{tmp_path / '.env'}:1")
    assert found.reason == reason


def test_foreign_lines_are_reported_with_their_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line of another program does not end the start, and its text is not logged."""
    text = "if secret; then\nTAIL=a\nNO_VALUE\nOTHER=${w0rd}\nOPEN='w0rd\n- w0rd\n{\n# note\n"
    assert tail(text, folder=tmp_path) == "a"
    file = tmp_path / ".env"
    assert sorted(caplog.messages) == [
        f"{file}:1 is ignored: it is not NAME=value",
        f"{file}:4 is ignored: its value has a ${{…}} that names a variable that is not set",
        f"{file}:5 is ignored: its value has a quote that is not closed",
        f"{file}:6 is ignored: it is not NAME=value",
        f"{file}:7 is ignored: it is not NAME=value",
    ]


def test_a_name_that_is_set_twice_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The later line counts, and a warning has the number of both."""
    assert tail("TAIL=a\nX=1\nTAIL=b", folder=tmp_path) == "b"
    assert caplog.messages == [f"{tmp_path / '.env'}:1 is ignored: line 3 sets TAIL again"]


def test_an_overridden_line_may_be_malformed(tmp_path: Path) -> None:
    """Only the value of the last source must be usable."""
    assert tail("TAIL=${nowhere}", {"TAIL": "x"}, folder=tmp_path) == "x"


def test_env_file_of_the_class_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pydantic-settings' env_file replaces .env; of several files a later one wins."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("TAIL=own\nHTTP_PORT=1\n")
    Path("a.env").write_text("TAIL=a\nHTTP_PORT=2\n")
    Path("b.env").write_text("TAIL=b\n")

    class One(CatsSettings):
        model_config = SettingsConfigDict(env_file="a.env")

    class Two(CatsSettings):
        model_config = SettingsConfigDict(env_file=(".env", Path("b.env"), "missing.env"))

    assert load(One, environ={}).settings.tail == "a"
    two = load(Two, environ={})
    assert (two.settings.tail, two.settings.http_port) == ("b", 1)
    assert str(two.origins["tail"]) == "b.env TAIL"
    assert load(One, environ={}, dotenv=Path("b.env")).settings.tail == "b"
    assert load(One, environ={}, dotenv=None).settings.tail == ""
