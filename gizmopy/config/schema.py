"""Read the schema of a settings class: each setting with its path and its names in each source.

``database: Postgres``, whose model has ``host: str``, is the section ``database`` with the setting
``database.host``: ``DATABASE__HOST`` in the environment, ``--database.host`` on the command line.
``topics`` is a table: it has an entry for every ``GIZMO_TOPIC_<CHANNEL>``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Json, RootModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import ForceDecode, NoDecode

from gizmopy.config.channel_names import FromPrefix, channel_key
from gizmopy.config.declarations import SettingsDeclarationError, check_field
from gizmopy.config.marks import has_mark
from gizmopy.config.named_code import code_keys, field_names_code
from gizmopy.config.secrets.masking import (
    alias_names,
    holds_secret,
    is_secret_field,
    is_secret_name,
)
from gizmopy.config.secrets.redaction import MISSING, is_marked_field, is_quotable, union_members
from gizmopy.config.structure import input_key, is_structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value: its path, its names in the sources, and its type."""

    path: tuple[str, ...]
    input_keys: tuple[str, ...]
    """The path by the keys of pydantic's input, which are aliases if there are any."""
    environment: tuple[str, ...]
    """The environment names. If several are set, the first of them counts."""
    annotation: Any
    default: Any = MISSING
    required: bool = False
    description: str = ""
    marked: bool = False
    """Whether its declaration is marked ``Shown``."""
    named_secret: bool = False
    """Whether its name, or that of a section above it, is typical of a secret."""
    is_named_by_field: bool = False
    """Whether its environment name is that of its field, and not an alias."""
    names_code: bool = False
    """Whether its value is the name of code to import."""
    code_keys: frozenset[str] = frozenset()
    """The keys of values that name code to import, in the models within its type."""
    table: FromPrefix | None = None
    """The prefix of its entries, which may come from several sources; None if it is not a table."""
    factory: Callable[[], Any] | None = None
    """The function that returns the default, if it needs no other values."""
    delimiter: str = "__"
    """The text between its name and a part of it in environment names: ``LIMITS__CATS``."""
    decoded: bool = True
    """Whether its text may be JSON; pydantic-settings' NoDecode turns that off."""
    none_text: str | None = None
    """The text that means None, pydantic-settings' ``env_parse_none_str``."""

    @property
    def name(self) -> str:
        """The path as origins and reports write it: ``database.host``."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """Its name on the command line: ``--database.host``."""
        return "--" + self.name.replace("_", "-")

    @property
    def secret(self) -> bool:
        """Whether it has a type for secrets, or a name typical of one and no mark."""
        return holds_secret(self.annotation) or (self.named_secret and not self.marked)

    @property
    def takes_flag(self) -> bool:
        """Whether it has a flag. Every user of the machine can read a secret on a command line.

        A number or a choice whose name is typical of a secret (``max_tokens``) has a flag.
        """
        if holds_secret(self.annotation):
            return False
        return self.marked or not self.named_secret or is_quotable(self.annotation)

    @property
    def quotable(self) -> bool:
        """Whether an error may quote its value."""
        return self.marked or (not self.named_secret and is_quotable(self.annotation))

    @property
    def boolean(self) -> bool:
        """Whether its flag needs no value."""
        return _members(self.annotation) == [bool]

    @property
    def structured(self) -> bool:
        """Whether its text may be JSON: its type is a list, a dict or a model."""
        return any(map(is_structure, union_members(self.annotation)))

    @property
    def type(self) -> str:
        """Its type in words: ``integer``, ``list of text``, ``one of auto, uvloop``."""
        return _type_text(self.annotation)

    def initial_value(self) -> Any:
        """Return the default, into which variables may put parts; None if there is none."""
        if self.default is MISSING:
            return None if self.factory is None else self.factory()
        return self.default

    def initial_entries(self) -> dict[str, Any]:
        """Return the default entries of a table; those of the sources are added to them."""
        default = self.default if isinstance(self.default, Mapping) else {}
        return {channel_key(name): value for name, value in default.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A nested model, or the whole settings class: its settings and sections by name."""

    path: tuple[str, ...] = ()
    input_keys: tuple[str, ...] = ()
    environment: tuple[str, ...] = ("",)
    """The prefixes of the environment names of its settings."""
    model: type[BaseModel]
    names: tuple[str, ...] = ()
    """The environment names of the whole section, whose value is a JSON object."""
    delimiter: str = "__"
    """The delimiter of the settings class, between the parts of an environment name."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The ``model_config`` of the settings class."""
    default: Any = MISSING
    named_secret: bool = False
    """Whether its name, or that of a section above it, is typical of a secret."""
    marked: bool = False
    """Whether its declaration is marked ``Shown``, and so the values in it."""
    required: bool = True
    children: dict[str, Setting | Section] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    """The name of a child, by each name that a file may use for it."""

    @property
    def name(self) -> str:
        """The path as origins and reports write it: ``database``."""
        return ".".join(self.path)

    def initial_values(self) -> dict[str, Any]:
        """Return the values of the section's default; those of the sources replace them."""
        if not isinstance(self.default, self.model):
            return {}
        values: dict[str, Any] = {}
        for child in self.children.values():
            if isinstance(child, Setting):
                values[child.input_keys[-1]] = child.default
            elif child.default is not None:
                values[child.input_keys[-1]] = child.initial_values()
        return values

    def settings(self) -> Iterator[Setting]:
        """Yield every setting in it and in the sections below it, in the order of declaration."""
        for child in self.children.values():
            yield from (child,) if isinstance(child, Setting) else child.settings()

    def sections(self) -> Iterator[Section]:
        """Yield every section below it; one comes before the sections in it."""
        for child in self.children.values():
            if isinstance(child, Section):
                yield child
                yield from child.sections()

    def sections_above(self, setting: Setting) -> Iterator[Section]:
        """Yield the sections between this one and ``setting``, which is below it."""
        node = self
        for name in setting.path[:-1]:
            child = node.children[name]
            assert isinstance(child, Section)
            node = child
            yield node

    def find(self, location: Sequence[int | str]) -> tuple[Setting | Section, list[int | str]]:
        """Return the deepest node on pydantic's ``location``, and the rest of the location."""
        node: Setting | Section = self
        for index, part in enumerate(location):
            if not isinstance(node, Section) or part not in node.spellings:
                return node, list(location[index:])
            node = node.children[node.spellings[str(part)]]
        return node, []


def read_schema(model: type[BaseModel]) -> Section:
    """Return the settings and sections of a settings class.

    A model that contains itself, or a union of several models, is one structured setting. Raises
    DeclarationError if a declaration has no effect in gizmopy.
    """
    config = model.model_config
    delimiter = str(config.get("env_nested_delimiter") or "__")
    root = Section(model=model, delimiter=delimiter, config=config)
    schema = _with_children(root, (model,))
    _check_names(schema)
    return schema


def _check_names(schema: Section) -> None:
    """Raise DeclarationError if a field gets a variable of another setting by its name.

    ``port`` would get PORT, which HTTP_PORT's setting reads too. An alias may be shared on purpose.
    """
    owners: dict[str, Setting] = {}
    for setting in schema.settings():
        for name in setting.environment:
            other = owners.setdefault(name, setting)
            if other is setting or not (setting.is_named_by_field or other.is_named_by_field):
                continue
            field, taken = (setting, other) if setting.is_named_by_field else (other, setting)
            model = [schema, *schema.sections_above(field)][-1].model
            reason = f"its variable {name} is that of {taken.name} too; rename the field"
            raise SettingsDeclarationError(model, reason, field=field.path[-1])


def _with_children(section: Section, ancestors: tuple[type[BaseModel], ...]) -> Section:
    section.model.model_rebuild()  # a type in it may have been declared after it
    for name, info in section.model.model_fields.items():
        check_field(section.model, name, info)
        model = _model_of(info)
        if model is None or model in ancestors:
            section.children[name] = _setting(section, name, info)
        else:
            child = _section(section, name, info, model)
            section.children[name] = _with_children(child, (*ancestors, model))
        for spelling in (name, *alias_names(_declaration(section.model, name))):
            section.spellings[spelling] = name
    return section


def _setting(section: Section, name: str, info: FieldInfo) -> Setting:
    declaration = _declaration(section.model, name)
    table = _table(declaration)
    environment = _environment(section, name)
    return Setting(
        path=(*section.path, name),
        input_keys=_input_keys(section, name, info),
        environment=(f"{table.prefix}<CHANNEL>",) if table else environment,
        annotation=info.annotation,
        default=_default(section, name, info),
        required=_required(section, info),
        description=info.description or declaration.description or "",
        marked=section.marked or is_marked_field(section.model, name),
        named_secret=section.named_secret or any(map(is_secret_name, (name, *environment))),
        is_named_by_field=table is None and not alias_names(declaration),
        names_code=field_names_code(info) or field_names_code(declaration),
        code_keys=code_keys(info.annotation),
        table=table,
        factory=None if _takes_data(info) else info.default_factory,  # type: ignore[arg-type]
        delimiter=section.delimiter,
        decoded=_decoded(section, info),
        none_text=section.config.get("env_parse_none_str"),
    )


def _decoded(section: Section, info: FieldInfo) -> bool:
    if has_mark(info.metadata, ForceDecode):
        return True
    if has_mark(info.metadata, Json):  # pydantic decodes it
        return False
    return section.config.get("enable_decoding", True) and not has_mark(info.metadata, NoDecode)


def _section(section: Section, name: str, info: FieldInfo, model: type[BaseModel]) -> Section:
    names = _environment(section, name)
    delimiter = str(model.model_config.get("env_nested_delimiter") or section.delimiter)
    return Section(
        path=(*section.path, name),
        input_keys=_input_keys(section, name, info),
        environment=tuple(above + delimiter for above in names),
        names=names,
        delimiter=section.delimiter,
        config=section.config,
        model=model,
        default=_default(section, name, info),
        required=_required(section, info),
        named_secret=section.named_secret or is_secret_field(name, info),
        marked=section.marked or is_marked_field(section.model, name),
    )


def _model_of(info: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section; None if the field is a setting."""
    allowed = _members(info.annotation)
    if len(allowed) != 1 or not isinstance(allowed[0], type):
        return None
    is_section = issubclass(allowed[0], BaseModel) and not issubclass(allowed[0], RootModel)
    return allowed[0] if is_section else None


def _declaration(model: type[BaseModel], name: str) -> FieldInfo:
    """Return the field of the class that gave it its names.

    A subclass that declares a new default keeps the names.
    """
    for base in model.__mro__:
        info: FieldInfo | None = getattr(base, "model_fields", {}).get(name)
        if info is not None and (alias_names(info) or _table(info)):
            return info
    return model.model_fields[name]


def _table(info: FieldInfo) -> FromPrefix | None:
    return next((mark for mark in info.metadata if isinstance(mark, FromPrefix)), None)


def _input_keys(section: Section, name: str, info: FieldInfo) -> tuple[str, ...]:
    return (*section.input_keys, input_key(section.model, name, info))


def _environment(section: Section, name: str) -> tuple[str, ...]:
    prefix = (
        ""
        if _is_standard(section.model, name)
        else section.model.model_config.get("env_prefix", "")
    )
    aliases = alias_names(_declaration(section.model, name))
    names = aliases or (f"{prefix}{name}",)
    return tuple(above + own.upper() for above in section.environment for own in names)


def _is_standard(model: type[BaseModel], name: str) -> bool:
    """Return whether a field is one of gizmopy's own, which have no prefix of the service."""
    owners = [base for base in model.__mro__ if name in getattr(base, "model_fields", {})]
    return owners[-1].__module__.startswith("gizmopy.")


def _default(section: Section, name: str, info: FieldInfo) -> Any:
    if isinstance(section.default, section.model):
        return getattr(section.default, name)
    if info.default_factory is None:
        return MISSING if info.is_required() else info.default
    # The result of a factory may depend on the machine or the time: then it is not a default that
    # a report or the documentation can show. That of a container or a section does not.
    if info.default_factory in (list, dict, set, tuple, frozenset) or _makes_section(info):
        return info.get_default(call_default_factory=True)
    return MISSING


def _makes_section(info: FieldInfo) -> bool:
    return _model_of(info) is not None and not _takes_data(info)


def _takes_data(info: FieldInfo) -> bool:
    return bool(info.default_factory_takes_validated_data)


def _required(section: Section, info: FieldInfo) -> bool:
    return info.is_required() and not isinstance(section.default, section.model)


def _members(annotation: Any) -> list[Any]:
    """Return the types that ``annotation`` allows, without None."""
    return [member for member in union_members(annotation) if member is not NoneType]


_TYPE_NAMES: dict[Any, str] = {
    Any: "anything",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    bytes: "text",
    SecretStr: "text",
    SecretBytes: "text",
    timedelta: "duration",
    Path: "path",
}


def _type_text(annotation: Any) -> str:
    kinds = map(_kind_text, _members(annotation))
    return " or ".join(dict.fromkeys(kinds))


def _kind_text(member: Any) -> str:
    arguments = get_args(member)
    kind = get_origin(member) or member
    if kind is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if not isinstance(kind, type):
        return str(member)
    if kind in _TYPE_NAMES:
        return _TYPE_NAMES[kind]
    if issubclass(kind, Enum):
        return f"one of {', '.join(str(choice.value) for choice in kind)}"
    if not is_structure(kind) or not arguments:
        return kind.__name__
    item = arguments[0] if arguments[-1] is Ellipsis else arguments[-1]
    # A type alias is shown by its name: it may contain itself, as the type of any JSON does.
    text = item.__name__ if hasattr(item, "__value__") else _type_text(item)
    return f"{'table' if issubclass(kind, Mapping) else 'list'} of {text}"
