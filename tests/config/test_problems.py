"""Problems: all at once, each with its name, value, source, reason and remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from gizmopy.config import Duration, Settings, load
from gizmopy.errors import ConfigError, ConfigProblem


class Postgres(BaseModel):
    host: str
    port: int = 5432
    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class CatsSettings(Settings):
    database: Postgres = Postgres(host="db")
    workers: int | bool = 4
    names: list[int] = Field(default_factory=list)
    replicas: list[Postgres] = Field(default_factory=list)
    wait: Duration | None = None
    even: int = 0

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        assert value % 2 == 0, "is odd"
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.http_port == 1 and self.log_json:
            raise ValueError("port 1 takes no JSON")
        return self


class Required(Settings):
    database: Postgres
    cat: str


def problems_of(
    argv: Sequence[str] = (),
    environ: dict[str, str] | None = None,
    *,
    cls: type[Settings] = CatsSettings,
    dotenv: Path | None = None,
) -> tuple[ConfigProblem, ...]:
    """Return the problems of a failed load."""
    with pytest.raises(ConfigError) as caught:
        load(cls, argv, environ=environ or {}, dotenv=dotenv)
    return caught.value.problems


def line_of(argv: Sequence[str] = (), environ: dict[str, str] | None = None) -> str:
    """Return the text of the only problem of a failed load."""
    (problem,) = problems_of(argv, environ)
    return str(problem)


INTEGER = "should be a valid integer, unable to parse string as an integer; set it to: integer"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--http-prot", "1"], "--http-prot{}: is not a known flag; did you mean --http-port?"),
        (["--http-prot=1"], "--http-prot{}: is not a known flag; did you mean --http-port?"),
        (["--http_port=1"], "--http_port{}: is not a known flag; did you mean --http-port?"),
        (["-http-port", "1"], "-http-port{}: is not a known flag; did you mean --http-port?"),
        (
            ["--database.hots=x"],
            "--database.hots{}: is not a known flag; did you mean --database.host?",
        ),
        (["--no-log-jsn"], "--no-log-jsn{}: is not a known flag; did you mean --no-log-json?"),
        (["--zzz", "1"], "--zzz{}: is not a known flag; remove it"),
        (["--database={}"], "--database{}: is not a known flag; "),
        (["--"], "--{}: is not a known flag; remove it"),
        (["http-port"], "http-port{}: does not belong to a flag; did you mean --http-port?"),
        (["qqq"], "argument 1{}: does not belong to a flag; remove it"),
        (["--http-port"], "--http-port{}: has no value; write --http-port=VALUE"),
        (
            ["--http-port", "--log-json"],
            "--http-port{}: has no value; write --http-port=VALUE",
        ),
        (["--config"], "--config{}: has no value; write --config=VALUE"),
        (["--no-log-json=1"], "--no-log-json{}: takes no value; write only --no-log-json"),
        (["--http-port=x"], "--http-port=x{}: " + INTEGER),
        (["--http-port=70000"], "--http-port=70000{}: should be less than or equal to 65535; "),
        (["--http-port="], "--http-port={}: " + INTEGER),
        (["--log-json=maybe"], "--log-json=maybe{}: should be a valid boolean, "),
        (["--log-level=loud"], "--log-level=loud{}: should be 'debug', 'info', 'warning', "),
        (
            ["--loop=x"],
            "--loop=x{}: should be 'auto', 'asyncio' or 'uvloop'; set it to: one of auto, ",
        ),
        (["--wait=x"], "--wait=x{}: 'x' is not a duration; write it like '1m30s', or as seconds"),
        (["--metrics-path=m"], "--metrics-path=m{}: does not begin with a slash; write /m"),
        (["--even=1"], "--even=1{}: is odd"),
        (
            ["--workers=x"],
            "--workers=x{}: should be a valid integer, unable to parse string as an ",
        ),
        (
            ["--names=x"],
            "--names=x{}: should be a valid list; set it to: list of integer (as JSON,",
        ),
        (['--names=["a"]'], '--names=["a"]{}: 0: should be a valid integer, '),
        (
            ['--replicas=[{"port": 1}]'],
            "--replicas=*** (1 item, from the command line): 0.host: Field required; ",
        ),
        (
            ["--topics=x"],
            "--topics=*** (1 character, from the command line): is not a table; write names and ",
        ),
        (
            ['--topics={"a": 1}'],
            "--topics.a=*** (1 character, from the command line): should be a valid string; ",
        ),
        (
            ['--topics={"a.b":"", "a-b":""}'],
            "--topics.a-b{}: is the same channel as --topics.a.b; ",
        ),
    ],
)
def test_problems_of_the_command_line(argv: list[str], line: str) -> None:
    """Each mistake on a command line is one problem with a remedy."""
    assert line_of(argv).startswith(line.replace("{}", " (command line)", 1))


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"PORT": "x"}, "PORT=x (environment): " + INTEGER),
        ({"DATABASE__PORT": "x"}, "DATABASE__PORT=x (environment): " + INTEGER),
        ({"NAMES": "[1"}, "NAMES=[1 (environment): should be a valid list; "),
        ({"WAIT": "-5s"}, "WAIT=-5s (environment): '-5s' is negative; write it like '1m30s'"),
        (
            {"GIZMO_TOPIC_a": "x", "GIZMO_TOPIC_A": "y"},
            "GIZMO_TOPIC_A (environment): is the same channel as GIZMO_TOPIC_a; keep one of them",
        ),
    ],
)
def test_problems_of_the_environment(environ: dict[str, str], line: str) -> None:
    """The problem of a wrong value in the environment has the name of the variable."""
    assert line_of(environ=environ).startswith(line)


FILE_LINES = [
    ("c.yaml", "htp_port: 1", "htp_port (FILE): is not a known setting; did you mean http_port?"),
    ("c.yaml", "http-port: 1", "http-port (FILE): is not a known setting; did you mean http_port?"),
    ("c.yaml", "zzz: 1", "zzz (FILE): is not a known setting; remove it"),
    ("c.yaml", "1: 1", "1 (FILE): is not a known setting; remove it"),
    (
        "c.toml",
        "[database]\nhots = 1",
        "database.hots (FILE): is not a known setting; did you mean database.host?",
    ),
    ("c.json", '{"http_port": "x"}', "http_port=x (FILE): " + INTEGER),
    ("c.json", '{"http_port": null}', "http_port= (FILE): should be a valid integer; "),
    (
        "c.json",
        '{"database": {"port": []}}',
        "database.port=[] (FILE): should be a valid integer; ",
    ),
    ("c.json", '{"database": 5}', "database=*** (1 character, from FILE): is not a table; write "),
    (
        "c.json",
        '{"topics": ["x"]}',
        "topics=*** (1 item, from FILE): is not a table; write names and values, ",
    ),
    (
        "c.json",
        '{"topics": {"a": 1}}',
        "topics.a=*** (1 character, from FILE): should be a valid string; set it to: ",
    ),
    (
        "c.json",
        '{"topics": {"a": "", "A": ""}}',
        "topics.A (FILE): is the same channel as topics.a",
    ),
    (
        "c.json",
        '{"http_port": 1, "HTTP_PORT": 2}',
        "HTTP_PORT (FILE): is the same setting as http_port; keep one of them",
    ),
]


@pytest.mark.parametrize(("name", "text", "line"), FILE_LINES)
def test_problems_within_a_file(name: str, text: str, line: str, tmp_path: Path) -> None:
    """The problem of a key or a value in a file has its path in the file."""
    file = tmp_path / name
    file.write_text(text)
    assert line_of([f"--config={file}"]).startswith(line.replace("FILE", str(file)))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("c.json", '{"a": 1,\n  b}', "is not JSON: "),
        ("c.json", '{"a": 1,\n  b}', "line 2 column 3"),
        ("c.json", "", "line 1 column 1"),
        ("c.json", "[1]", "is not a table of settings"),
        ("c.toml", "a = 1\nb = ", "is not TOML: Invalid value (at "),
        ("c.yaml", "a: 1\nb: [", "is not YAML: "),
        ("c.yml", "a: b: c", "is not YAML: mapping values are not allowed here (line 1, column 5)"),
        (
            "c.yaml",
            "a: !!timestamp 2020-13-45",
            "is not YAML: it contains an impossible date or number",
        ),
        ("c.yaml", "a: !!int x", "is not YAML: it contains an impossible date or number"),
        ("c.yaml", "- a", "is not a table of settings"),
        ("c.ini", "a = 1", "has the unknown suffix '.ini'"),
        ("c", "a = 1", "has the unknown suffix ''"),
    ],
)
def test_malformed_files(name: str, text: str, reason: str, tmp_path: Path) -> None:
    """The problem has the source that names the file, and the line if it is known."""
    file = tmp_path / name
    file.write_text(text)
    for argv, environ, given_by in (
        (["--config", str(file)], {}, ("--config", "command line")),
        ([], {"GIZMO_CONFIG": str(file)}, ("GIZMO_CONFIG", "environment")),
    ):
        (problem,) = problems_of(argv, environ)
        assert (problem.name, problem.source, problem.value) == (*given_by, str(file))
        assert reason in problem.reason
        assert problem.remedy


def test_the_remedy_for_an_unknown_suffix_has_the_known_suffixes(tmp_path: Path) -> None:
    """The error for an unsupported suffix lists the supported ones."""
    (problem,) = problems_of([f"--config={tmp_path}/c.ini"])
    assert problem.remedy == "name a file that ends in .json, .toml, .yaml, .yml"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """The problem of a missing file, a directory or bad UTF-8 has the cause."""
    (tmp_path / "d.json").mkdir()
    (tmp_path / "l.json").write_bytes(b'{"service_name": "\xe9"}')
    for name, reason in (
        ("m.json", "cannot be read: No such file or directory"),
        ("d.json", "cannot be read: Is a directory"),
        ("l.json", "is not JSON: its text is not UTF-8"),
    ):
        (problem,) = problems_of([f"--config={tmp_path}/{name}"])
        assert problem.reason == reason


def test_a_file_that_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    """A settings file or .env that exists and cannot be opened is not ignored."""
    file = tmp_path / "c.json"
    file.symlink_to(file)  # the path of a file below a file: even root cannot open it
    reason = "cannot be read: Too many levels of symbolic links"
    assert problems_of([f"--config={file}"])[0].reason == reason
    assert problems_of(dotenv=file)[0].reason == reason


def test_a_malformed_dotenv_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The problem has the number of the line, or the name of a file that is not UTF-8."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("A=1\n\n\nB C\nHTTP_ADDR='1'2\nSERVICE_NAME='1\nPORT=x\n")
    assert list(map(str, problems_of(dotenv=dotenv))) == [
        f"SERVICE_NAME ({dotenv}:6): has a quote that is not closed; close it with ', or put the "
        "whole value in other quotes",
        f"HTTP_ADDR ({dotenv}:5): has text after its closing quote; write \\' for a quote in the "
        "value",
        f"PORT=x ({dotenv}): {INTEGER}",
    ]
    assert caplog.messages == [f"{dotenv}:4 is ignored: it is not NAME=value"]
    dotenv.write_bytes(b"A=\xff")
    (problem,) = problems_of(dotenv=dotenv)
    assert (
        str(problem)
        == f"{dotenv}: cannot be read: its text is not UTF-8; correct or remove the file"
    )


def test_missing_settings_name_their_variable_and_flag() -> None:
    """Each missing setting is a problem, also those of a missing section."""
    assert list(map(str, problems_of(cls=Required))) == [
        "DATABASE__HOST: is required; set DATABASE__HOST or --database.host",
        "CAT: is required; set CAT or --cat",
    ]


def test_a_section_with_one_value_must_have_its_required_values() -> None:
    """If a source has one value of a section, its required settings must be set."""
    problems = problems_of(environ={"DATABASE__PORT": "1", "CAT": "x"}, cls=Required)
    assert [problem.name for problem in problems] == ["DATABASE__HOST"]


def test_cross_field_validators() -> None:
    """The problem has the message of a model's validator and the section's name."""
    (nested,) = problems_of(["--database.low=3"])
    assert str(nested) == "database: low is above high; change the settings that the reason names"
    (whole,) = problems_of(["--http-port=1", "--log-json"])
    assert (
        str(whole)
        == "CatsSettings: port 1 takes no JSON; change the settings that the reason names"
    )


def test_a_default_of_the_wrong_type() -> None:
    """The problem of a wrong default in a subclass has the name of the setting."""

    class Wrong(Settings):
        workers: int = Field(0, gt=0)

    (problem,) = problems_of(cls=Wrong)
    assert re.fullmatch(
        rf"WORKERS \(its default in {__file__}:\d+\): should be greater than 0; correct the "
        "default; set it to: integer",
        str(problem),
    )


def test_members_of_a_union_make_one_problem() -> None:
    """A value that matches no type of a union is one problem with every reason."""
    (problem,) = problems_of(["--workers=x"])
    assert "valid integer" in problem.reason
    assert "valid boolean" in problem.reason


def test_everything_is_reported_at_once(tmp_path: Path) -> None:
    """One error has the problems of every source and of validation, each on a line."""
    file = tmp_path / "c.toml"
    file.write_text('htp_port = 1\nloop = "x"\n[database]\nhots = 2\n')
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=x\nHTTP_ADDR=${nowhere}\n")
    environ = {"GIZMO_READ_TIMEOUT": "x"}
    argv = ["rubbish", "--config", str(file), "--bogus", "1", "--log-level=x", "--http-port"]
    with pytest.raises(ConfigError) as caught:
        load(Required, argv, environ=environ, dotenv=dotenv)
    assert [(problem.name, problem.source) for problem in caught.value.problems] == [
        ("htp_port", str(file)),
        ("database.hots", str(file)),
        ("argument 1", "command line"),
        ("--bogus", "command line"),
        ("--http-port", "command line"),
        ("HTTP_ADDR", f"{dotenv}:2"),
        ("PORT", str(dotenv)),
        ("--log-level", "command line"),
        ("GIZMO_READ_TIMEOUT", "environment"),
        ("loop", str(file)),
        ("DATABASE__HOST", ""),
        ("CAT", ""),
    ]
    assert str(caught.value).startswith("12 settings are invalid:\n  htp_port (")
    assert all(problem.reason and problem.remedy for problem in caught.value.problems)
    assert caught.value.exit_code == 2


def test_an_overridden_value_is_not_validated() -> None:
    """Only the value of the last source must be valid."""
    assert load(Settings, ["--http-port=1"], environ={"HTTP_PORT": "x"}).settings.http_port == 1
