"""Settings files in YAML are read as YAML 1.2."""

from datetime import timedelta
from pathlib import Path

import pytest

from gizmopy.config import Duration, Settings, load
from gizmopy.config.documents import PARSERS
from gizmopy.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("no", "no"),
        ("On", "On"),
        ("y", "y"),
        ("2020-01-01", "2020-01-01"),
        ("012", "012"),
        ("-012", "-012"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        ("'12'", "12"),
        ("12", 12),
        ("-12", -12),
        ("+0", 0),
        ("0o14", 12),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("!!str 12", "12"),
    ],
)
def test_a_plain_scalar(text: str, value: object) -> None:
    """Numbers, booleans and null have one spelling each; anything else is a text."""
    parsed = PARSERS[".yaml"](f"a: {text}\n")
    assert parsed == {"a": value}
    assert type(parsed["a"]) is type(value)


def test_merge_keys_are_read() -> None:
    """Tables may share entries by ``<<``."""
    text = "base: &base {a: 1}\nown:\n  <<: *base\n  b: 2\n"
    assert PARSERS[".yml"](text) == {"base": {"a": 1}, "own": {"a": 1, "b": 2}}


class CatSettings(Settings):
    country: str = ""
    code: str = ""
    sleepy: bool = True
    nap: Duration = timedelta(0)
    age: int = 0


def _load(text: str, folder: Path) -> CatSettings:
    file = folder / "cats.yaml"
    file.write_text(text)
    return load(CatSettings, [f"--config={file}"], environ={}, dotenv=None).settings


def test_settings_of_a_file_in_yaml(tmp_path: Path) -> None:
    """A text stays a text, and a boolean may have any of its spellings."""
    read = _load("country: no\ncode: 0123\nsleepy: no\nnap: 1m30s\nage: 012\n", tmp_path)
    assert (read.country, read.code, read.sleepy, read.age) == ("no", "0123", False, 12)
    assert read.nap == timedelta(seconds=90)


def test_a_sexagesimal_number_is_no_duration(tmp_path: Path) -> None:
    """1:30 was 90 s in silence, for a minute and a half as for an hour and a half."""
    with pytest.raises(ConfigError, match=r"'1:30' is not a duration; write it like '1m30s'"):
        _load("nap: 1:30\n", tmp_path)
