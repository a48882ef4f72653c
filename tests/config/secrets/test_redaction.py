"""An allowlist decides which values are shown; others show only source and length."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, Field, Json, RootModel, Secret, SecretBytes, SecretStr
from typing_extensions import TypeAliasType, TypedDict

from gizmopy.cli import main
from gizmopy.config import Duration, Settings, Shown, load, report
from gizmopy.config.secrets.redaction import is_quotable, redacted_model
from gizmopy.errors import ConfigError

SECRET = "Qz-hunter2"
"""Ten characters that no default, name or message has."""

PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    name: str = "tom"
    region: Annotated[str, Shown] = ""
    password: str = ""
    pin: int = 0


@dataclass
class Account:
    user: str = ""
    plan: Annotated[str, Shown] = ""
    logins: int = 0


class Login(NamedTuple):
    user: str
    number: int


class Typed(TypedDict):
    user: str
    count: int


class Words(RootModel[list[str]]):
    pass


Region = TypeAliasType("Region", Annotated[str, Shown])


class CatsSettings(Settings):
    # names that are typical of secrets, declared as text
    db_pass: str = ""
    apikey: str = ""
    tokens: list[str] = Field(default_factory=list)
    passphrase: str = ""
    cookie: str = ""
    pwd: str = ""
    auth: str = ""
    greeting: str = ""
    private: str = ""
    raw: bytes = b""
    path: Path = Path()
    ident: UUID | None = None
    feed: AnyUrl | None = None
    url: str = ""
    anything: Any = None
    labels: dict[str, str] = Field(default_factory=dict)
    by_number: dict[int, str] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    ids: list[int] = Field(default_factory=list)
    pair: tuple[int, str] | None = None
    typed: Typed | None = None
    login: Login | None = None
    account: Account | None = None
    inner: Inner = Inner()
    inners: list[Inner] = Field(default_factory=list)
    words: Words | None = None
    json_text: Json[list[str]] | None = None
    # on the allowlist
    retries: int = 3
    ratio: float = 0.5
    price: Decimal = Decimal(1)
    wait: Duration = timedelta(0)
    day: date | None = None
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] | str = "fast"
    address: IPv4Address | None = None
    networks: list[IPv4Network] = Field(default_factory=list)
    db_host: str = "db"
    region: Annotated[str, Shown] = ""
    zone: Region | None = None
    zones: list[Annotated[str, Shown]] = Field(default_factory=list)
    tags: Annotated[dict[str, str], Shown] = Field(default_factory=dict)
    kind: str = "tabby"
    # never shown, for any value
    pin: SecretStr = SecretStr("")
    blob: SecretBytes = SecretBytes(b"")
    number: Secret[int] = Secret[int](0)
    pass_number: int = 0
    token: int = 0
    marked_secret: Annotated[SecretStr, Shown] = SecretStr("")


def shown(**values: Any) -> dict[str, Any]:
    """Return the redacted settings with ``values``."""
    return redacted_model(CatsSettings(**values))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, SECRET) for name in ("db_pass", "apikey", "passphrase", "cookie", "pwd", "auth")),
        *((name, SECRET) for name in ("greeting", "private", "raw", "path", "url", "anything")),
        *((name, SECRET) for name in ("pin", "blob", "mode", "kind", "db_host", "marked_secret")),
        ("tokens", [SECRET]),
        ("ident", "dddddddd-dddd-4ddd-8ddd-dddddddddddd"),
        ("greeting", PEM),
        ("url", f"https://{SECRET}@host"),
        ("url", f"https://cat:{SECRET}@host/x"),
        ("url", f"https://host/{SECRET}"),
        ("url", f"https://host?sig={SECRET}"),
        ("url", f"https://host#{SECRET}"),
        ("url", f"https://cat:1/{SECRET}@host"),
        ("url", f"https://cat:1?{SECRET}@host"),
        ("url", f"https://cat:1#{SECRET}@host"),
        ("url", f"https://cat:{SECRET}"),
        ("url", f"https://[{SECRET}]/"),
        ("url", f"https://ho st/{SECRET}"),
        ("url", f"cat:{SECRET}@host"),
        ("url", f"AccountKey={SECRET};EndpointSuffix=x"),
        ("feed", f"https://cat:{SECRET}@host/{SECRET}?a={SECRET}"),
        ("anything", {"user": SECRET}),
        ("anything", [SECRET, {"user": [SECRET]}]),
        ("labels", {"user": SECRET}),
        ("labels", {SECRET: "tom"}),
        ("counts", {SECRET: 1}),
        ("by_number", {1: SECRET}),
        ("pair", (1, SECRET)),
        ("typed", {"user": SECRET, "count": 1}),
        ("login", (SECRET, 1)),
        ("account", {"user": SECRET}),
        ("inner", {"name": SECRET}),
        ("inner", {"password": SECRET}),
        ("inners", [{"name": SECRET}]),
        ("words", [SECRET]),
        ("json_text", f'["{SECRET}"]'),
        ("db_host", f"db:1,{SECRET}"),
        ("region", f"https://cat:{SECRET}@host"),
        ("region", PEM),
        ("tags", {"password": SECRET}),
    ],
)
def test_other_values_are_hidden(name: str, value: Any) -> None:
    """Unmarked text is hidden in the repr, in /debug/config and in the report."""
    value = {"marked_secret": SecretStr(SECRET)}.get(name, value)
    settings = CatsSettings.model_validate({name: value})
    texts = [repr(settings), str(settings), str(redacted_model(settings))]
    loaded = load(CatsSettings, environ={}, dotenv=None)
    rows = report.rows(type(loaded)(settings, loaded.origins))
    for text in (*texts, report.as_text(rows), report.as_markdown(rows)):
        assert "hunter" not in text
        assert "dddd" not in text
        assert "***" in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("retries", 5, 5),
        ("ratio", 0.25, 0.25),
        ("price", Decimal("9.5"), "9.5"),
        ("wait", timedelta(seconds=90), "1m30s"),
        ("day", date(2024, 2, 29), "2024-02-29"),
        ("colour", Colour.RED, "red"),
        ("mode", "slow", "slow"),
        ("address", IPv4Address("10.0.0.1"), "10.0.0.1"),
        ("networks", [IPv4Network("10.0.0.0/8")], ["10.0.0.0/8"]),
        ("ids", [1, 2], [1, 2]),
        ("db_host", "db-1.example:5432", "db-1.example:5432"),
        ("db_host", "[::1]:1,b:2", "[::1]:1,b:2"),
        ("region", "eu-west-1", "eu-west-1"),
        ("zone", "a", "a"),
        ("zones", ["a", "b"], ["a", "b"]),
        ("tags", {"team": "cats"}, {"team": "cats"}),
        ("kind", "tabby", "tabby"),
        ("url", "https://host:8080", "https://host:8080"),
        ("url", "https://host:8080/", "https://host:8080"),
        ("url", "https://cat:pw@host:8080/x", "https://host:8080 *** (26 characters)"),
        ("url", "postgres://a,b:1/x", "postgres://a,b:1 *** (18 characters)"),
        ("feed", "https://[::1]:1/", "https://[::1]:1"),
        ("greeting", "", ""),
        ("pin", "", ""),
        ("zone", None, None),
        ("labels", {}, {}),
        ("labels", {"a": "b", "c": "d"}, "*** (2 items)"),
        ("by_number", {1: "ab"}, {"1": "*** (2 characters)"}),
        ("pair", (1, "x"), [1, "*** (1 character)"]),
        ("typed", {"user": "x", "count": 1}, {"user": "*** (1 character)", "count": 1}),
        ("login", ("x", 1), {"user": "*** (1 character)", "number": 1}),
        (
            "account",
            {"user": "x", "plan": "gold", "logins": 2},
            {"user": "*** (1 character)", "plan": "gold", "logins": 2},
        ),
        ("token", 1234, "*** (4 characters)"),
        ("number", 1234, "*** (4 characters)"),
    ],
)
def test_the_allowlist(name: str, value: Any, text: Any) -> None:
    """Numbers, durations, dates, choices, addresses, defaults and marked text are shown."""
    assert shown(**{name: value})[name] == text


def test_a_hidden_value_shows_source_and_length() -> None:
    """The origins that load returns have the source of a hidden value."""
    loaded = load(
        CatsSettings,
        ["--greeting", SECRET],
        environ={"DB_PASS": SECRET, "INNER__NAME": "x", "GIZMO_TOPIC_CATS": "kafka://b1/t"},
        dotenv=None,
    )
    shown = redacted_model(loaded.settings, loaded.origins)
    assert shown["db_pass"] == "*** (10 characters, from the environment)"
    assert shown["greeting"] == "*** (10 characters, from the command line)"
    assert shown["inner"]["name"] == "*** (1 character, from the environment)"
    assert shown["topics"] == {"CATS": "kafka://b1 *** (12 characters, from the environment)"}
    values = {row.name: row.value for row in report.rows(loaded)}
    assert values["db_pass"] == "*** (10 characters, from the environment)"
    assert values["topics.CATS"] == "kafka://b1 *** (12 characters, from the environment)"


def test_a_new_default_keeps_the_mark() -> None:
    """A subclass that changes only a default or a type keeps the mark of its base."""

    class Other(CatsSettings):
        region: str = "a"
        service_name: str = "b"

    shown = redacted_model(Other(region="eu", service_name="cats"))
    assert (shown["region"], shown["service_name"]) == ("eu", "cats")


def test_a_marked_section_is_shown() -> None:
    """The mark of a model applies to its fields, except those with a type for secrets."""

    class Place(BaseModel):
        city: str = ""
        pin: SecretStr = SecretStr("")

    class Other(Settings):
        place: Annotated[Place, Shown] = Place()

    loaded = load(Other, environ={"PLACE__CITY": "Rome", "PLACE__PIN": SECRET}, dotenv=None)
    assert redacted_model(loaded.settings)["place"] == {
        "city": "Rome",
        "pin": "*** (10 characters)",
    }
    values = {row.name: row.value for row in report.rows(loaded)}
    assert values["place.city"] == "Rome"
    assert "hunter" not in str(values["place.pin"])


def test_a_default_with_the_name_of_a_secret_is_hidden() -> None:
    """A class may read a default from the environment."""

    class Other(Settings):
        api_key: str = SECRET
        kind: str = "tabby"

    assert redacted_model(Other())["api_key"] == "*** (10 characters)"
    assert {row.name: row.default for row in report.rows(Other)}["api_key"] == "*** (10 characters)"


@pytest.mark.parametrize(
    ("annotation", "quotable"),
    [
        *((kind, True) for kind in (int, bool, float, Duration, Colour, IPv4Address, int | None)),
        *((kind, True) for kind in (Literal["a"], list[int], dict[int, bool], tuple[int, ...])),
        *((kind, True) for kind in (Annotated[str, Shown], Region, list[Region])),
        *((kind, False) for kind in (str, bytes, Path, AnyUrl, UUID, Any, SecretStr, int | str)),
        *((kind, False) for kind in (list[str], dict[str, int], list, Inner, Account, object)),
        *((kind, False) for kind in (Secret[int], Json[list[str]], Words)),
    ],
)
def test_types_whose_wrong_values_an_error_quotes(annotation: Any, quotable: bool) -> None:
    """An error quotes only types whose valid values are shown."""
    assert is_quotable(annotation) is quotable


def problem_of(**environ: str) -> str:
    """Return the only problem of a load with an environment."""
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, environ=environ, dotenv=None)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"RETRIES": "x"}, "RETRIES=x (environment): should be a valid integer"),
        (
            {"TOKEN": "x"},
            "TOKEN=*** (1 character, from the environment): should be a valid ",
        ),
        (
            {"RETRIES": "x" * 65},
            "RETRIES=*** (65 characters, from the environment): should be a valid integer",
        ),
        (
            {"IDENT": SECRET},
            "IDENT=*** (10 characters, from the environment): is not valid; set it to: UUID",
        ),
        ({"FEED": SECRET}, "FEED=*** (10 characters, from the environment): is not valid; set it"),
        ({"COUNTS": f'{{"{SECRET}": "x"}}'}, "COUNTS=*** (1 item, from the environment): ***: "),
        ({"BY_NUMBER": f'{{"{SECRET}": "x"}}'}, "BY_NUMBER=*** (1 item, from the environment)"),
        (
            {"INNERS": f'[{{"pin": "{SECRET}"}}]'},
            "INNERS=*** (1 item, from the environment): 0.pin: should be a valid integer",
        ),
    ],
)
def test_an_error_quotes_only_shown_values(environ: dict[str, str], problem: str) -> None:
    """Any other error has the name, the source, the length and the expected type."""
    text = problem_of(**environ)
    assert text.startswith(problem)
    assert "hunter" not in text


@pytest.mark.parametrize("name", ["debug_token", "GIZMO_DEBUG_TOKEN", "--debug-token"])
def test_show_prints_one_value(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """gizmopy config --show prints the value of a setting, by any of its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIZMO_DEBUG_TOKEN", SECRET)
    monkeypatch.setenv("GIZMO_TOPIC_CATS", "kafka://u:p@b1")
    assert main(["config", f"--show={name}"]) == 0
    assert capsys.readouterr().out == f"{SECRET}\n"
    assert main(["config", "--show", "topics.CATS"]) == 0
    assert capsys.readouterr().out == "kafka://u:p@b1\n"
    assert main(["config", "--show", SECRET]) == 1
    assert SECRET not in capsys.readouterr().err
