"""Mistakes on the command line and in declarations, by a person who has not read the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gizmopy.cli import main

SECRET = "Qzhunter2"
MODULE = """\
from gizmopy import Service, Settings, get
class CatsSettings(Settings):
    api_key: str = ""
    tail: str = ""
class Cats(Service):
    settings: CatsSettings
    @get("/cats")
    async def cats(self) -> str:
        return "tom"
class Model: ...
made = Cats()
def create(): return Cats()
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a directory of modules the working directory."""
    for name in ("mistaken.py", "src/elsewhere.py", "services/inside.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("mistaken", "wrong"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def error_of(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line that a failing command prints."""
    try:
        code = main(argv)
    except SystemExit as error:
        code = int(str(error.code))
    output = capsys.readouterr()
    assert code in (1, 2)
    assert "Traceback" not in output.err
    assert SECRET not in output.out + output.err
    return output.err.splitlines()[-1].strip()


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("mistaken.py", "'mistaken.py' does not name a service; write mistaken:Cats"),
        ("./mistaken.py", "does not name a service; write mistaken:Cats"),
        ("mistaken.py:Cats", "does not name a service; write mistaken:Cats"),
        ("services/inside.py", "does not name a service; write services.inside:Cats"),
        ("services/inside:Cats", "does not name a service; write services.inside:Cats"),
        ("/srv/cats.py:Cats", "change to the directory of the file, and write cats:Cats"),
        ("mistaken", "write it as module:Service, such as mistaken:Cats"),
        ("mistaken.Cats", "write mistaken:Cats"),
        ("mistaken:Cats()", "write it as module:Service, with names that Python can import"),
        ("my-cats:Cats", "write it as module:Service, with names that Python can import"),
        ("mistaken:cats", "mistaken has no service 'cats'; its services are: Cats"),
        (
            "mistaken:made",
            "'made' in mistaken is an object; name its class; its services",
        ),
        ("mistaken:Model", "'Model' in mistaken is a class that is not a service; its services"),
        ("mistaken:create", "'create' in mistaken is a function that is not a service; its"),
        ("elsewhere:Cats", "it is in src: change to that directory, or install it"),
    ],
)
def test_a_wrong_name_of_a_service(
    target: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one line with how to write it."""
    assert text in error_of("routes", target, capsys=capsys)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--reload"],
            "--reload (command line): is not a known flag; remove it: a daemon",
        ),
        (
            ["--workers", "4"],
            "--workers (command line): is not a known flag; remove it: a daemon",
        ),
        (["--host", "::"], "--host (command line): is not a known flag; write --http-addr=ADDRESS"),
        (["--port=80"], "--port (command line): is not a known flag; write --http-port=PORT"),
        (["-p", "80"], "-p (command line): is not a known flag; write --http-port=PORT"),
        (
            ["--HTTP_PORT=80"],
            "--HTTP_PORT (command line): is not a known flag; did you mean --",
        ),
        (["--app-log-level=x"], "is not a known flag; did you mean --log-level?"),
        (["--GIZMO_READ_TIMEOUT=5s"], "is not a known flag; did you mean --read-timeout?"),
        (
            ["HTTP_PORT=80"],
            "HTTP_PORT (command line): does not belong to a flag; did you mean",
        ),
        ([f"API_KEY={SECRET}"], "API_KEY (command line): does not belong to a flag; did you mean"),
        (
            [f"tail={SECRET}"],
            "tail (command line): does not belong to a flag; did you mean",
        ),
        (
            ["--log-json", "yes"],
            "argument 2 (command line): does not belong to a flag; remove it",
        ),
        (["--log-json=perhaps"], "set it to: true or false"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_flag(
    argv: list[str], text: str, first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the flag and the remedy, also if flags precede the service."""
    if not first and not argv[0].startswith("-"):
        argv = ["--service-name=cats", *argv]
        text = text.replace("argument 1", "argument 2")
    words = ["mistaken:Cats", *argv] if first else [*argv, "mistaken:Cats"]
    assert text in error_of("routes", *words, capsys=capsys)


def test_run_has_the_same_answer(tmp_path: Path) -> None:
    """gizmopy run --reload module:Service names the unknown flag."""
    done = subprocess.run(
        [sys.executable, "-m", "gizmopy", "run", "--reload", "mistaken:Cats"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "--reload (command line): is not a known flag; remove it" in done.stderr


def test_a_secret_in_place_of_the_service_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The first argument may be a variable with its value."""
    text = error_of("routes", f"api_key={SECRET}", capsys=capsys)
    assert text == "gizmopy: argument 1 does not name a service; write it as module:Service"


def test_a_command_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """The error has the command that was probably meant."""
    for word in ("mistaken:Cats", "mistaken.py"):
        text = error_of(word, capsys=capsys)
        assert text.endswith("the command is missing; write gizmopy run module:Service")


def test_flags_may_precede_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    """The service is found by its colon."""
    assert main(["routes", "--http-port=1", "mistaken:Cats"]) == 0
    assert "/cats" in capsys.readouterr().out


HEAD = "from gizmopy import Service, Settings\nfrom pydantic import BaseModel, Field\n"
DECLARATIONS = [
    (
        "class Cats(Service):\n    def __init__(self, settings=None):\n"
        "        super().__init__(settings)\n        self.m = self.metrics.registry\n",
        "FILE:4: Cats.__init__: line 6: Cats has no metrics yet: create them in lifespan",
    ),
    (
        "class Cats(Service):\n    def __init__(self, settings=None):\n"
        "        self.port = self.settings.http_port\n        super().__init__(settings)\n",
        "FILE:4: Cats.__init__: uses self.settings too early; call super().__init__(",
    ),
    (
        "class S(Settings):\n    tail: str = ''\nclass Cats(Service):\n    settings = S()\n",
        "FILE:5: Cats: settings has a value, which nothing reads; annotate it, settings: S",
    ),
    (
        "class S(Settings):\n    tail: str = ''\nclass Cats(Service):\n    settings = S\n",
        "FILE:5: Cats: settings has a value, which nothing reads; annotate it, settings: S",
    ),
    (
        "class S(BaseModel):\n    tail: str = ''\nclass Cats(Service):\n    settings: S\n",
        "FILE:5: Cats: settings is annotated with <class 'wrong.S'>; use a subclass of gizmopy.",
    ),
    (
        "class S(Settings):\n    port: int = 1\nclass Cats(Service):\n    settings: S\n",
        "FILE:4: S.port: its variable PORT is that of http_port too; rename the field",
    ),
    (
        "class D(BaseModel):\n    host: str = ''\nclass S(Settings):\n    d: D = D()\n"
        "    d__host: str = ''\nclass Cats(Service):\n    settings: S\n",
        "FILE:7: S.d__host: its variable D__HOST is that of d.host too; rename the field",
    ),
    (
        "class S(Settings):\n    help: str = ''\nclass Cats(Service):\n    settings: S\n",
        "FILE:4: S.help: --help prints the settings; rename the field",
    ),
    (
        "class S(Settings):\n    size: int = 'x'\nclass Cats(Service):\n    settings: S\n",
        "SIZE (its default in FILE:4): should be a valid integer, unable to parse string as an ",
    ),
    (
        "class Cats(Service): ...\nCats.run()\n",
        'FILE:3: Cats: FILE:4 runs it on import; write if __name__ == "__main__": ahead of it',
    ),
]


@pytest.mark.parametrize(("source", "text"), DECLARATIONS)
def test_a_wrong_declaration(
    source: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the file, the line and the remedy, and the exit code is 2."""
    path = tmp_path / "wrong.py"
    path.write_text(HEAD + source)
    assert main(["routes", "wrong:Cats"]) == 2
    assert text in capsys.readouterr().err.replace(str(path), "FILE")


def test_the_module_of_an_annotation_may_have_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``settings: mistaken.CatsSettings`` is found, also with postponed annotations."""
    (tmp_path / "wrong.py").write_text(
        f"from __future__ import annotations\nimport mistaken\n{HEAD}"
        "class Cats(Service):\n    settings: mistaken.CatsSettings\n"
    )
    assert main(["config", "wrong:Cats", "--tail=x"]) == 0
    assert "tail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        (f"class Cats(Service:\n    key = '{SECRET}'\n", 2, "Python cannot read the module: "),
        ("class Cats(Service):\nkey = 1\n", 3, "expected an indented block"),
        ("class Cats(Service):\n    x = (\n", 3, "'(' was never closed"),
        ("class S(Settings):\n    x = 5\n", 2, "A non-annotated attribute was detected"),
    ],
)
def test_a_module_that_cannot_be_read(
    source: str, line: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the file and the line, and no traceback."""
    (tmp_path / "wrong.py").write_text(f"from gizmopy import Service, Settings\n{source}")
    error = error_of("run", "wrong:Cats", capsys=capsys)
    assert f"wrong.py:{line}: " in error
    assert text in error
