"""A plain timedelta in settings takes the notation of every other duration."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, Field, field_validator

from gizmopy.config import Duration, Settings, load
from gizmopy.errors import ConfigError


class Pool(BaseModel):
    wait: timedelta = timedelta(0)


@dataclasses.dataclass
class Cache:
    ttl: timedelta = timedelta(0)


def _own(value: object) -> object:
    return timedelta(days=len(value)) if isinstance(value, str) else value


class CatsSettings(Settings):
    refresh: timedelta = timedelta(0)
    limited: Annotated[timedelta, Field(gt=timedelta(0))] = timedelta(1)
    spare: timedelta | None = None
    named: timedelta = Field(timedelta(0), validation_alias="THE_NAME")
    steps: list[timedelta] = Field(default_factory=list)
    by_name: dict[str, timedelta] = Field(default_factory=dict)
    pool: Pool = Pool()
    pools: list[Pool] = Field(default_factory=list)
    cache: Cache = Field(default_factory=Cache)
    text: str | timedelta = ""
    number: timedelta | int = 0
    own: Annotated[timedelta, BeforeValidator(_own)] = timedelta(0)
    checked: timedelta = timedelta(0)
    duration: Duration = timedelta(0)

    @field_validator("checked", mode="before")
    @classmethod
    def _check(cls, value: object) -> object:
        return _own(value)


FIVE = timedelta(seconds=5)


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("REFRESH", "5s", "refresh", FIVE),
        ("REFRESH", "1m30s", "refresh", timedelta(seconds=90)),
        ("REFRESH", "500ms", "refresh", timedelta(milliseconds=500)),
        ("REFRESH", "30", "refresh", timedelta(seconds=30)),
        ("REFRESH", "0.5", "refresh", timedelta(seconds=0.5)),
        ("REFRESH", "PT5S", "refresh", FIVE),
        ("REFRESH", "00:00:05", "refresh", FIVE),
        ("DURATION", "5s", "duration", FIVE),
        ("LIMITED", "5s", "limited", FIVE),
        ("SPARE", "5s", "spare", FIVE),
        ("THE_NAME", "5s", "named", FIVE),
        ("STEPS", '["5s", 5]', "steps", [FIVE, FIVE]),
        ("STEPS__0", "5s", "steps", [FIVE]),
        ("BY_NAME__A", "5s", "by_name", {"a": FIVE}),
        ("POOL__WAIT", "5s", "pool", Pool(wait=FIVE)),
        ("POOLS", '[{"wait": "5s"}]', "pools", [Pool(wait=FIVE)]),
        ("CACHE__TTL", "5s", "cache", Cache(FIVE)),
        ("TEXT", "5s", "text", "5s"),
        ("NUMBER", "5s", "number", FIVE),
        ("OWN", "5s", "own", timedelta(days=2)),
        ("CHECKED", "5s", "checked", timedelta(days=2)),
    ],
)
def test_variables(variable: str, text: str, name: str, value: Any) -> None:
    """Go's notation and seconds are read at any depth; a validator of the service is kept."""
    settings = load(CatsSettings, environ={variable: text}, dotenv=None).settings
    assert getattr(settings, name) == value


def test_files_flags_and_constructors(tmp_path: Path) -> None:
    """Every source reads durations alike, and so does the constructor."""
    file = tmp_path / "c.yaml"
    file.write_text("refresh: 5s\npool: {wait: 5s}\ncache: {ttl: 5s}\n")
    settings = load(CatsSettings, [f"--config={file}", "--spare=5s"], environ={}).settings
    made = CatsSettings.model_validate(
        {"refresh": "5s", "pool": {"wait": "5s"}, "cache": {"ttl": "5s"}, "spare": "5s"}
    )
    assert settings == made
    assert (made.refresh, made.pool.wait, made.cache.ttl, made.spare) == (FIVE, FIVE, FIVE, FIVE)


@pytest.mark.parametrize("text", ["soon", "-5s", "5 apples"])
def test_the_remedy_has_the_notation(text: str) -> None:
    """The error of a wrong duration shows how to write one."""
    with pytest.raises(ConfigError) as caught:
        load(CatsSettings, environ={"REFRESH": text}, dotenv=None)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"REFRESH={text} (environment): ")
    assert problem.remedy == "write it like '1m30s', or as seconds"
