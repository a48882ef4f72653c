"""Refuse declarations of pydantic-settings that have no effect in gizmopy.

gizmopy reads the sources itself. An option of pydantic-settings' own sources would be ignored in
silence: a service would start with its defaults instead of its values.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from gizmopy.errors import DeclarationError

_FILES = "name the settings file in GIZMO_CONFIG or --config, and remove it"
_FLAGS = "every setting is a flag of gizmopy run already: remove it"
_REMEDIES = {
    "cli_": _FLAGS,
    "json_file": _FILES,
    "yaml_": _FILES,
    "toml_": _FILES,
    "pyproject_toml_": _FILES,
    "env_file_depth": "write the path of the file in env_file, and remove it",
    "dotenv_filtering": "other names in the file do no harm: remove it",
    "env_prefix_target": "write the whole name in each alias, and remove it",
    "env_parse_enums": "write the values of the enumeration, not its names, and remove it",
    "secrets_prefix": "a file has the name of the variable: rename the files, and remove it",
    "secrets_case_sensitive": "the names of files have any case: remove it",
    "secrets_dir_max_size": "a file has at most 1 MiB: remove it",
}
"""The remedy for each option without an effect, by the start of its name."""


_TAKEN = {"config": "--config names the file", "help": "--help prints the settings"}
"""The names of fields whose flags have another meaning."""


class SettingsDeclarationError(DeclarationError, TypeError):
    """A declaration in a class of settings that has no effect. The text has the remedy."""


def check_class(cls: type[BaseSettings], base: type[BaseSettings]) -> None:
    """Raise SettingsDeclarationError if a class has an option or a method without an effect.

    ``base`` is the class of the standard settings.
    """
    for field, reason in _TAKEN.items():
        if field in cls.model_fields:
            raise SettingsDeclarationError(cls, f"{reason}; rename the field", field=field)
    inherited = base.settings_customise_sources.__func__  # type: ignore[attr-defined]
    if cls.settings_customise_sources.__func__ is not inherited:  # type: ignore[attr-defined]
        raise SettingsDeclarationError(
            cls,
            "settings_customise_sources has no effect, because gizmopy reads the sources itself; "
            "write the values into a settings file, a secrets_dir or the environment before the "
            "start, or read them in the lifespan of the service",
        )
    for field, info in cls.model_fields.items():
        _check_copy(cls, field, info)
    for name, remedy in _ineffective(cls.model_config, base.model_config):
        raise SettingsDeclarationError(
            cls, f"model_config[{name!r}] has no effect in gizmopy; {remedy}"
        )


def _check_copy(cls: type[BaseSettings], field: str, info: FieldInfo) -> None:
    """Raise SettingsDeclarationError if a default cannot be copied, as each object needs."""
    try:
        info.get_default(call_default_factory=False)
    except Exception as error:
        reason = f"its default cannot be copied ({type(error).__name__})"
        remedy = "write Field(default_factory=...), which makes a new one"
        raise SettingsDeclarationError(cls, f"{reason}; {remedy}", field=field) from error


def _ineffective(config: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if value == base.get(name) or value is None:
            continue
        for start, remedy in _REMEDIES.items():
            if name.startswith(start):
                yield name, remedy
    if config.get("case_sensitive"):
        yield "case_sensitive", "names in the environment have any case: remove it"
    if str(config.get("env_file_encoding") or "utf-8").lower() not in (
        "utf-8",
        "utf8",
        "utf-8-sig",
    ):
        yield "env_file_encoding", "write the file in UTF-8, and remove it"
    delimiter = config.get("secrets_nested_delimiter")
    if delimiter and delimiter != (config.get("env_nested_delimiter") or "__"):
        yield "secrets_nested_delimiter", "it is env_nested_delimiter: set that one"


def check_field(model: type[BaseModel], name: str, info: FieldInfo) -> None:
    """Raise SettingsDeclarationError if the declaration of a field has no effect."""
    reason = _field_problem(info)
    if reason is not None:
        raise SettingsDeclarationError(model, reason, field=name)


def _is_for_command_line(mark: Any) -> bool:
    name = getattr(mark, "__name__", type(mark).__name__)
    return name.startswith("_Cli") or (isinstance(mark, str) and mark == argparse.SUPPRESS)


def _field_problem(info: FieldInfo) -> str | None:
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    if any(isinstance(choice, AliasPath) for choice in choices):
        return (
            "has an AliasPath, and a setting is the whole value of a name; use a plain alias or "
            "AliasChoices, and a nested model, list or dict for a value with parts"
        )
    marks = [*info.metadata]
    for member in get_args(info.annotation):
        marks += getattr(member, "__metadata__", ())
    if any(map(_is_for_command_line, marks)):
        return f"is marked for pydantic-settings' command line; {_FLAGS}"
    for member in (info.annotation, *get_args(info.annotation)):
        if isinstance(member, type) and issubclass(member, BaseSettings):
            return (
                f"has the type {member.__name__}, a BaseSettings that reads the environment by "
                f"itself; derive {member.__name__} from pydantic.BaseModel"
            )
    return None
