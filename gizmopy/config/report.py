"""Report settings: their names, types, defaults, values and sources. No secret is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from typing import Any

from gizmopy.config.loading import Loaded
from gizmopy.config.origin import Origin
from gizmopy.config.schema import Section, Setting, read_schema
from gizmopy.config.secrets.masking import is_secret_name
from gizmopy.config.secrets.redaction import MISSING, ValueContext, as_line, redacted_value
from gizmopy.config.settings import Settings
from gizmopy.untrusted.text import cut, escape


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as text; ``value`` and ``source`` are None if settings were not loaded."""

    name: str
    environment: tuple[str, ...]
    """The environment names. If several are set, the first of them counts."""
    flag: str
    """Empty for a secret, which has no flag."""
    type: str
    default: str
    """``required`` if there is none, ``computed`` if a function returns it."""
    description: str
    value: str | None = None
    source: str | None = None


def rows(of: Loaded[Any] | type[Settings]) -> list[Row]:
    """Return a row for every setting, also of sections, in the order of declaration.

    A table of channels that is not empty has a row for each of its entries instead.
    """
    if isinstance(of, Loaded):
        schema = read_schema(type(of.settings))
        return [row for setting in schema.settings() for row in _loaded_rows(setting, of)]
    return [_row(setting) for setting in read_schema(of).settings()]


def _row(setting: Setting) -> Row:
    return Row(
        name=setting.name,
        environment=setting.environment,
        flag=_flag(setting),
        type=setting.type,
        default=_default(setting),
        description=setting.description,
    )


def _flag(setting: Setting) -> str:
    if not setting.takes_flag:
        return ""
    return setting.flag.replace("--", "--[no-]", 1) if setting.boolean else setting.flag


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    if setting.default is MISSING:
        return "computed"
    return _text(setting.default, setting.annotation, _context(setting))


def _text(value: Any, annotation: Any, context: ValueContext) -> str:
    return "" if value == {} else as_line(redacted_value(value, annotation, context))


def _context(setting: Setting, origin: Origin | None = None, entry: str = "") -> ValueContext:
    path = (*setting.path, entry) if entry else setting.path
    return ValueContext(
        path=path,
        origins={".".join(path): origin} if origin else {},
        marked=setting.marked,
        secret=setting.named_secret or is_secret_name(entry),
        default=MISSING if entry else setting.default,
    )


def _loaded_rows(setting: Setting, loaded: Loaded[Any]) -> Iterator[Row]:
    row = _row(setting)
    value = reduce(lambda node, name: getattr(node, name, None), setting.path, loaded.settings)
    if setting.table is None or not value:
        origin = loaded.origins[setting.name]
        text = _text(value, setting.annotation, _context(setting, origin))
        yield replace(row, value=text, source=str(origin))
        return
    for entry, url in value.items():
        name = f"{setting.name}.{entry}"
        origin = loaded.origins.get(name, Origin("default"))
        yield replace(
            row,
            name=name,
            environment=(f"{setting.table.prefix}{entry}",),
            value=_text(url, str, _context(setting, origin, entry)),
            source=str(origin),
        )


def with_unused_sections_collapsed(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows, with a single row for each standard section in which no setting is set.

    The settings of a broker that a daemon does not use would fill the screen. A service's own
    sections are never collapsed.
    """
    children = read_schema(Settings).children
    for name, group in groupby(rows, lambda row: row.name.partition(".")[0]):
        section, members = children.get(name), list(group)
        if isinstance(section, Section) and all(row.source == "default" for row in members):
            yield _collapsed_row(section, len(members))
        else:
            yield from members


def _collapsed_row(section: Section, count: int) -> Row:
    return Row(
        name=f"{section.name}.*",
        environment=tuple(f"{prefix}*" for prefix in section.environment),
        flag=f"--{section.name}.*",
        type="",
        default="",
        description=f"{count} settings, all with their defaults. See docs/settings.md.",
        source="default",
    )


def as_text(rows: Sequence[Row]) -> str:
    """Return the rows as a table for a terminal: one line each, with aligned columns."""
    lines = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown tables: one for settings without a section, and one a section.

    Every column but the description is formatted as code.
    """
    sections: dict[str, list[Row]] = {"": []}
    for row in rows:
        sections.setdefault(row.name.rpartition(".")[0], []).append(row)
    tables = (f"## {name}\n\n{_table(group)}" for name, group in sections.items())
    return "\n\n".join(tables).removeprefix("## \n\n")


def _table(rows: Sequence[Row]) -> str:
    title, *cells = _cells(rows)
    code = ([f"`{cell}`" if cell else "" for cell in line[:-1]] + line[-1:] for line in cells)
    table = (title, ["---"] * len(title), *code)
    lines = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in table)
    return "\n".join(f"| {line} |" for line in lines)


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    title = ["setting", "environment", "flag", "type", "default"]
    loaded = any(row.value is not None for row in rows)
    title += ["value", "source"] if loaded else []
    return [[*title, "description"], *(_line(row, loaded=loaded) for row in rows)]


def _line(row: Row, *, loaded: bool) -> list[str]:
    cells = [row.name, ", ".join(row.environment), row.flag, row.type, row.default]
    cells += [row.value or "", row.source or ""] if loaded else []
    return [escape(" ".join(cut(cell).splitlines())) for cell in (*cells, row.description)]
