"""Declarations of pydantic-settings that have no effect here are refused, with the remedy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from gizmopy.config import Settings, load
from gizmopy.errors import DeclarationError

HEAD = """\
from typing import Annotated
from pydantic import AliasChoices, AliasPath, BaseModel, Field
from pydantic_settings import BaseSettings, CliPositionalArg, CliSubCommand, CliImplicitFlag
from pydantic_settings import CliSuppress, SettingsConfigDict
from gizmopy import Settings


class Own(BaseSettings):
    host: str = ""


class Plain(BaseModel):
    own: Own = Own()
    tail: str = Field("", validation_alias=AliasPath("a", "b"))


class Cats(Settings):
"""
LINE = HEAD.count("\n")


def message(body: str, folder: Path) -> str:
    """Return the error of a module with a settings class that has ``body``, when it is loaded."""
    path = folder / "cats_settings.py"
    path.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    spec = importlib.util.spec_from_file_location("cats_settings", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def run() -> None:
        loader.exec_module(module)
        load(module.Cats, environ={}, dotenv=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cats_settings", module)
        with pytest.raises(DeclarationError) as caught:
            run()
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("cli_parse_args=True", "every setting is a flag of gizmopy run already: remove it"),
        ("cli_prefix='x'", "every setting is a flag"),
        ("cli_kebab_case=True", "every setting is a flag"),
        ("json_file='a.json'", "name the settings file in GIZMO_CONFIG or --config"),
        ("yaml_file='a.yaml'", "name the settings file in GIZMO_CONFIG or --config"),
        ("yaml_config_section='a'", "name the settings file in GIZMO_CONFIG or --config"),
        ("toml_file='a.toml'", "name the settings file in GIZMO_CONFIG or --config"),
        ("pyproject_toml_depth=1", "name the settings file in GIZMO_CONFIG or --config"),
        ("case_sensitive=True", "names in the environment have any case"),
        ("env_file_encoding='latin-1'", "write the file in UTF-8"),
        ("env_file_depth=2", "write the path of the file in env_file"),
        ("env_parse_enums=True", "write the values of the enumeration"),
        ("env_prefix_target='all'", "write the whole name in each alias"),
        ("secrets_prefix='x'", "a file has the name of the variable"),
        ("secrets_nested_delimiter='.'", "it is env_nested_delimiter"),
        ("secrets_dir_max_size=5", "a file has at most 1 MiB"),
    ],
)
def test_an_option_without_an_effect(option: str, remedy: str, tmp_path: Path) -> None:
    """The error has the file and line of the class, the option and the remedy."""
    text = message(f"model_config = SettingsConfigDict({option})", tmp_path)
    name = option.partition("=")[0]
    assert text.startswith(f"FILE:{LINE}: Cats: model_config[{name!r}] has no effect in gizmopy; ")
    assert remedy in text


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (
            "tail: str = Field('', validation_alias=AliasPath('a', 0))",
            "Cats.tail: has an AliasPath",
        ),
        (
            "tail: str = Field('', validation_alias=AliasChoices('a', AliasPath('b', 0)))",
            "Cats.tail: has an AliasPath",
        ),
        ("tail: CliPositionalArg[str] = ''", "Cats.tail: is marked for pydantic-settings' command"),
        ("tail: CliSubCommand[Own]", "Cats.tail: is marked for pydantic-settings' command line"),
        ("tail: CliImplicitFlag[bool] = False", "Cats.tail: is marked for pydantic-settings'"),
        ("tail: CliSuppress[str] = ''", "Cats.tail: is marked for pydantic-settings'"),
        ("tail: Own = Own()", "Cats.tail: has the type Own, a BaseSettings that reads the environ"),
        ("tail: Own | None = None", "Cats.tail: has the type Own, a BaseSettings"),
        ("tail: list[Own] = []", "Cats.tail: has the type Own, a BaseSettings"),
        ("config: str = ''", "Cats.config: --config names the file; rename the field"),
    ],
)
def test_a_field_without_an_effect(field: str, text: str, tmp_path: Path) -> None:
    """The error has the file and line of the field, and the remedy."""
    assert message(f"name: str = ''\n{field}", tmp_path).startswith(f"FILE:{LINE + 2}: {text}")


def test_a_field_of_a_section_is_checked_too(tmp_path: Path) -> None:
    """The error of a field in a nested model has the place in that model."""
    assert message("plain: Plain = Plain()", tmp_path).startswith(
        "FILE:13: Plain.own: has the type"
    )


def test_sources_of_the_class_are_refused(tmp_path: Path) -> None:
    """settings_customise_sources would not be called, or would read a source when called."""
    body = "@classmethod\ndef settings_customise_sources(cls, *sources, **others):\n    return ()"
    text = message(body, tmp_path)
    assert text.startswith(f"FILE:{LINE}: Cats: settings_customise_sources has no effect")
    assert "secrets_dir" in text


@pytest.mark.parametrize("option", ["_env_file", "_secrets_dir", "_env_prefix", "_cli_parse_args"])
def test_sources_in_a_constructor_are_refused(option: str) -> None:
    """Settings(_env_file=…) would read nothing."""
    given: dict[str, Any] = {option: "hunter2"}
    with pytest.raises(TypeError, match=rf"Settings\({option}=…\): .* call gizmopy.config.load"):
        Settings(**given)


def test_options_with_an_effect_are_not_refused() -> None:
    """Those that gizmopy reads, and those that change nothing, are accepted."""
    options: dict[str, Any] = {
        "env_file": ".env",
        "env_file_encoding": "UTF-8",
        "env_prefix": "CATS_",
        "env_nested_delimiter": "_",
        "secrets_nested_delimiter": "_",
        "env_nested_max_split": 1,
        "env_ignore_empty": True,
        "nested_model_default_partial_update": True,
        "secrets_dir": "/run/secrets",
        "secrets_nested_subdir": True,
        "case_sensitive": False,
        "json_file": None,
        "extra": "ignore",
    }
    type("Cats", (Settings,), {"model_config": options, "__module__": __name__})


def test_a_default_that_cannot_be_copied(tmp_path: Path) -> None:
    """Each object has a copy of its defaults; the error names the field and the remedy."""
    body = "locks: list = [__import__('threading').Lock()]"
    text = message(body, tmp_path)
    assert text.endswith(
        "Cats.locks: its default cannot be copied (TypeError); "
        "write Field(default_factory=...), which makes a new one"
    )
