"""The report: a row for every setting, as text for a terminal or as Markdown."""

from __future__ import annotations

import socket
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AnyUrl, BaseModel, ByteSize, Field, JsonValue, Secret, SecretStr
from pydantic.fields import FieldInfo
from typing_extensions import TypeAliasType

from gizmopy.config import Settings, load
from gizmopy.config.report import Row, as_markdown, as_text, rows, with_unused_sections_collapsed
from gizmopy.errors import ConfigError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Database(BaseModel):
    host: str = Field(description="Where the database is.")
    password: SecretStr = SecretStr("")


class CatsSettings(Settings):
    database: Database
    spare: Database | None = None
    colour: Colour = Colour.RED
    mode: int | Literal["auto"] = "auto"
    ratio: float = 0.5
    files: tuple[Path, ...] = ()
    names: list[str] | None = None
    labels: dict[str, int] = Field(default_factory=dict)
    hostname: str = Field(default_factory=socket.gethostname)
    flag: bool = True
    api_key: str = "default-key"
    pipe: str = Field("a|b", description="One | other.")


LOADED = load(
    CatsSettings,
    ["--database.host", "db", "--no-flag", "--names=[]"],
    environ={
        "DATABASE__PASSWORD": "hunter2",
        "GIZMO_TOPIC_CATS": "kafka://a:b@c",
        "GIZMO_TOPIC_DOGS": "memory://",
        "GIZMO_READ_TIMEOUT": "90",
        "PORT": "0",
    },
    dotenv=None,
)


def by_name(found: list[Row]) -> dict[str, Row]:
    """Return the rows by the names of their settings."""
    return {row.name: row for row in found}


def test_a_class_has_a_row_for_every_setting_in_order() -> None:
    """Rows are in the order of declaration, also within sections, without values and sources."""
    found = rows(CatsSettings)
    names = [row.name for row in found]
    assert names[:4] == ["service_name", "service_version", "http_addr", "http_port"]
    first = len(rows(Settings))
    assert names[:first] == [row.name for row in rows(Settings)]
    assert names[first:] == [
        *("database.host", "database.password", "spare.host", "spare.password", "colour", "mode"),
        *("ratio", "files", "names", "labels", "hostname", "flag", "api_key", "pipe"),
    ]
    assert {(row.value, row.source) for row in found} == {(None, None)}


def test_a_row_has_the_names_the_type_the_default_and_a_description() -> None:
    """The row of a setting has all of them as text."""
    found = by_name(rows(CatsSettings))
    assert found["http_port"] == Row(
        name="http_port",
        environment=("HTTP_PORT", "PORT"),
        flag="--http-port",
        type="integer",
        default="8080",
        description="Port to listen on. 0: any free port.",
    )
    assert found["database.host"].environment == ("DATABASE__HOST",)
    assert found["database.host"].flag == "--database.host"
    assert found["database.host"].description == "Where the database is."
    assert found["topics"].environment == ("GIZMO_TOPIC_<CHANNEL>",)
    assert found["flag"].flag == "--[no-]flag"


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("read_timeout", "duration", "10s"),
        ("drain_delay", "duration", ""),
        ("log_json", "boolean", ""),
        ("loop", "one of auto, asyncio, uvloop", "auto"),
        ("topics", "table of text", ""),
        ("database.host", "text", "required"),
        ("database.password", "text", ""),
        ("colour", "one of red, blue", "red"),
        ("mode", "integer or one of auto", "auto"),
        ("ratio", "number", "0.5"),
        ("files", "list of path", "[]"),
        ("names", "list of text", ""),
        ("labels", "table of integer", ""),
        ("hostname", "text", "computed"),
        ("flag", "boolean", "true"),
        ("api_key", "text", "*** (11 characters)"),
    ],
)
def test_types_and_defaults_are_words(name: str, kind: str, default: str) -> None:
    """Types and defaults are words, and do not depend on the machine."""
    row = by_name(rows(CatsSettings))[name]
    assert (row.type, row.default) == (kind, default)


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("http_port", "0", "environment PORT"),
        ("http_addr", "127.0.0.1", "default"),
        ("read_timeout", "1m30s", "environment GIZMO_READ_TIMEOUT"),
        ("drain_delay", "", "default"),
        (
            "topics.CATS",
            "kafka://c *** (13 characters, from the environment)",
            "environment GIZMO_TOPIC_CATS",
        ),
        ("topics.DOGS", "memory://", "environment GIZMO_TOPIC_DOGS"),
        ("subscriptions", "", "default"),
        (
            "database.host",
            "*** (2 characters, from the command line)",
            "command line --database.host",
        ),
        (
            "database.password",
            "*** (7 characters, from the environment)",
            "environment DATABASE__PASSWORD",
        ),
        ("spare.host", "", "default"),
        ("names", "[]", "command line --names"),
        ("flag", "false", "command line --no-flag"),
        ("api_key", "*** (11 characters, from the default)", "default"),
    ],
)
def test_loaded_settings_have_values_and_sources(name: str, value: str, source: str) -> None:
    """A row of loaded settings has the value, masked, and its source."""
    row = by_name(rows(LOADED))[name]
    assert (row.value, row.source) == (value, source)


Pin = TypeAliasType("Pin", SecretStr)


class Unusual(Settings):
    later: Later
    counts: list[Annotated[int, Field(gt=0)]] = Field(default_factory=list)
    anything: dict[str, JsonValue] = Field(default_factory=dict)
    pins: list[Pin] = Field(default_factory=list)
    number: Annotated[int, Field(gt=1)] | None = None
    feed: AnyUrl = AnyUrl("http://a:hunter1@b")
    size: ByteSize = ByteSize(3)
    day: Secret[date] | None = None
    raw: bytes = b""
    bare: list[Any] | None = None


class Later(BaseModel):
    z: int


def test_every_kind_of_field_has_its_row() -> None:
    """Aliases, constraints within types, URLs and models declared later are loaded and shown."""
    environ = {
        "LATER__Z": "1",
        "COUNTS": "[1]",
        "ANYTHING": '{"a": [1], "token": "hunter2"}',
        "PINS": '["hunter3"]',
        "NUMBER": "2",
        "FEED": "https://a:hunter4@b/",
        "SIZE": "1kB",
        "DAY": "2020-01-01",
        "RAW": "x",
        "BARE": '["y"]',
    }
    found = by_name(rows(load(Unusual, environ=environ, dotenv=None)))
    assert {
        name: (found[name].type, found[name].value) for name in list(found)[len(rows(Settings)) :]
    } == {
        "later.z": ("integer", "1"),
        "counts": ("list of integer", "[1]"),
        "anything": ("table of JsonValue", "*** (2 items, from the environment)"),
        "pins": ("list of Pin", '["*** (7 characters, from the environment)"]'),
        "number": ("integer", "2"),
        "feed": (AnyUrl.__name__, "https://b *** (20 characters, from the environment)"),
        "size": ("ByteSize", "1000"),
        "day": ("Secret", "*** (10 characters, from the environment)"),
        "raw": ("text", "*** (1 character, from the environment)"),
        "bare": ("list of anything", '["*** (1 character, from the environment)"]'),
    }


@pytest.mark.skipif(
    "default_factory_takes_validated_data" not in dir(FieldInfo), reason="new in pydantic 2.10"
)
def test_a_section_that_is_computed_from_other_settings() -> None:
    """pydantic calls a factory whose argument is the validated values before it."""

    class Cats(Settings):
        first: Later = Field(default_factory=lambda given: Later(z=given["http_port"]))

    (row,) = [row for row in rows(load(Cats, environ={}, dotenv=None)) if row.name == "first.z"]
    assert (row.value, row.source) == ("8080", "default")


def test_a_wrong_value_of_a_type_alias_for_a_secret_is_not_shown() -> None:
    """A setting whose type is an alias of a secret type is a secret."""
    with pytest.raises(ConfigError) as caught:
        load(Unusual, environ={"PINS": "hunter1", "LATER__Z": "1"}, dotenv=None)
    assert "PINS=*** (7 characters, from the environment)" in str(caught.value)


def test_each_channel_has_its_row() -> None:
    """The row of a channel has the variable of that channel."""
    found = by_name(rows(LOADED))
    assert "topics" not in found
    assert found["topics.CATS"].environment == ("GIZMO_TOPIC_CATS",)


def test_an_unused_standard_section_is_one_row() -> None:
    """A standard section without values is one row; a service's own sections never are."""
    of_none = by_name([*with_unused_sections_collapsed(rows(LOADED))])
    assert [name for name in of_none if name.startswith("kafka.")] == ["kafka.*"]
    assert of_none["kafka.*"].environment == ("KAFKA_*",)
    assert {"database.host", "spare.host"} <= set(of_none)
    loaded = load(Settings, environ={"KAFKA_GROUP": "cats"}, dotenv=None)
    assert [*with_unused_sections_collapsed(rows(loaded))] == rows(loaded)


def test_text_is_aligned() -> None:
    """Each column begins at the same position in each line; no line ends with blanks."""
    lines = as_text(rows(CatsSettings)).splitlines()
    assert lines[0].split() == [
        *("setting", "environment", "flag", "type", "default", "description")
    ]
    start = lines[0].index("--") if "--" in lines[0] else lines[0].index("flag")
    flags = [line[start : start + 2] for line in lines[1:]]
    assert set(flags) == {"--", "  "}  # a secret has no flag
    assert all(line[start - 1] == " " for line in lines[1:])
    assert all(line == line.rstrip() for line in lines)
    assert len(lines) == len(rows(CatsSettings)) + 1


def test_text_of_loaded_settings_has_values_and_sources() -> None:
    """Loaded settings have the columns value and source, without secrets."""
    text = as_text(rows(LOADED))
    assert text.splitlines()[0].split()[-3:] == ["value", "source", "description"]
    assert "hunter2" not in text


def test_a_value_of_several_lines_is_shown_on_one() -> None:
    """A line break in a value does not break the table."""
    row = Row("a", ("A",), "--a", "text", "", "Words.", "x\ny", "default")
    assert len(as_text([row]).splitlines()) == 2
    assert len(as_markdown([row]).splitlines()) == 3


def test_markdown_is_a_table() -> None:
    """The table has a header, a rule and a row for each setting; pipes are escaped."""
    lines = as_markdown([row for row in rows(CatsSettings) if "." not in row.name]).splitlines()
    assert lines[0] == "| setting | environment | flag | type | default | description |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[-1] == r"| `pipe` | `PIPE` | `--pipe` | `text` | `a\|b` | One \| other. |"
    assert any("`GIZMO_TOPIC_<CHANNEL>`" in line for line in lines)


def test_each_section_has_its_own_table() -> None:
    """Settings without a section are first, then each section below its name."""
    parts = as_markdown(rows(CatsSettings)).split("\n\n")
    assert parts[1::2] == ["## kafka", "## database", "## spare"]
    assert parts[0].splitlines()[-1].startswith("| `pipe` ")
    assert parts[4].splitlines()[2].startswith("| `database.host` ")


def test_without_rows_the_table_has_only_a_header() -> None:
    """An empty list of rows gives the header."""
    assert len(as_text([]).splitlines()) == 1
    assert len(as_markdown([]).splitlines()) == 2
