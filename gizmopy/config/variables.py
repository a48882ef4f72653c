"""Read settings from variables: the environment, ``.env``, and a directory of secrets.

The three have the same names. A name has any case of its letters, as in pydantic-settings; the
spelling in capitals wins. ``NAME_FILE`` is the path of a file with the value of ``NAME``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from gizmopy.config.dotenv_file import DotenvFile, parse_dotenv
from gizmopy.config.origin import Origin
from gizmopy.config.schema import Section, Setting
from gizmopy.config.secrets.files import SecretFileError, list_secret_files, read_secret_file
from gizmopy.config.secrets.masking import is_secret_name
from gizmopy.config.settings_file import read_settings_file
from gizmopy.config.sources import (
    CONFIG,
    SECRETS_DIR,
    Finding,
    SourceValue,
    cause,
    entries,
    from_value,
    text_value,
)
from gizmopy.config.structure import find_path
from gizmopy.config.unknown_names import log_lines, log_unknown_names
from gizmopy.errors import ConfigProblem
from gizmopy.untrusted.hidden import describe_size

FILE = "_FILE"
"""The end of a variable whose value is the path of the file with the value."""


class Variables:
    """The variables of one source, by name. An empty variable counts as unset."""

    def __init__(self, values: Mapping[str, str], source: str, declared: frozenset[str]) -> None:
        """Keep the variables; ``declared`` has the names of every setting."""
        self.source = source
        self._values = values
        self._declared = declared
        self._names: dict[str, str] = {}
        for name in sorted(values, reverse=True):  # capitals come last, and win
            if self._is_set(name):
                self._names[name.upper()] = name

    def find(self, setting: Setting, name: str) -> SourceValue | None:
        """Return the value of a variable, or of the file that ``NAME_FILE`` names."""
        own = self._names.get(name.upper())
        file = self._names.get(f"{name.upper()}{FILE}")
        if not self._follows_files(setting, name):
            file = None
        if own is not None and file is not None:
            reason = f"is set, and {own} too"
            problem = ConfigProblem(file, reason, "unset one of them", self.source)
            return SourceValue(setting, None, Origin(self.source, file), refused=problem)
        if file is not None:
            return self._from_file(setting, file)
        return None if own is None else self.value_of(setting, own)

    def value_of(self, setting: Setting, spelled: str) -> SourceValue:
        """Return the value of the variable ``spelled``."""
        return text_value(setting, self._values[spelled], Origin(self.source, spelled))

    def entries(self, setting: Setting, prefix: str) -> Iterator[SourceValue]:
        """Yield the entries of a table. A path in ``PREFIX_NAME_FILE`` names a file."""
        for spelled in self._values:
            capitals, entry = spelled.upper(), spelled[len(prefix) :]
            if not (capitals.startswith(prefix) and entry and self._is_set(spelled)):
                continue
            if capitals.endswith(FILE) and entry[: -len(FILE)] and self._is_path(spelled):
                found = self._from_file(setting, spelled)
                entry = entry[: -len(FILE)]
            else:
                found = self.value_of(setting, spelled)
            yield replace(found, entry=entry)

    def parts(self, setting: Setting) -> Iterator[SourceValue]:
        """Yield the parts of a structured value, items of a list by their index."""
        for name in setting.environment:
            prefix = f"{name}{setting.delimiter}".upper()
            found = [
                part
                for capitals, spelled in self._names.items()
                if capitals.startswith(prefix)
                and (part := self._part(setting, capitals[len(prefix) :], spelled)) is not None
            ]
            yield from sorted(found, key=lambda part: [(type(k).__name__, k) for k in part.keys])

    def _part(self, setting: Setting, path: str, spelled: str) -> SourceValue | None:
        names = path.split(setting.delimiter.upper())
        found = find_path(setting.annotation, names)
        of_file = None
        if path.endswith(FILE):
            of_file = find_path(setting.annotation, [*names[:-1], names[-1][: -len(FILE)]])
        # The key of a dict may be any name: there it is the key, and not the name of a file.
        if found is None and of_file is not None and self._follows_files(setting, spelled):
            return replace(self._from_file(setting, spelled), keys=of_file[0])
        if found is None:
            return None
        keys, annotation = found
        value = self.value_of(replace_type(setting, annotation), spelled)
        return replace(value, setting=setting, keys=keys)

    def _is_set(self, name: str) -> bool:
        return bool(self._values[name])

    def _is_path(self, spelled: str) -> bool:
        return self._values[spelled].startswith("/")

    def _follows_files(self, setting: Setting, name: str) -> bool:
        """Return whether ``NAME_FILE`` names a file: a setting of that very name wins."""
        if setting is CONFIG or setting is SECRETS_DIR:
            return False
        return f"{name}{FILE}".upper() not in self._declared

    def _from_file(self, setting: Setting, spelled: str) -> SourceValue:
        given = self.value_of(_PATH, spelled)
        if given.refused is not None:
            return replace(given, setting=setting)
        return _secret(setting, Path(given.value), Origin(self.source, spelled))


_PATH = Setting(path=("file",), input_keys=("file",), environment=("FILE",), annotation=str)


def replace_type(setting: Setting, annotation: object) -> Setting:
    """Return a setting like ``setting`` of another type."""
    return replace(setting, annotation=annotation)


def _secret(setting: Setting, path: Path, origin: Origin) -> SourceValue:
    """Return the value in a file. Whatever its setting, it is shown nowhere."""
    origin = replace(origin, secret=True)
    try:
        text = read_secret_file(path)
        if not text:
            raise SecretFileError("is an empty file")
    except SecretFileError as error:
        problem = _file_problem(setting, path, origin, str(error))
        return SourceValue(setting, None, origin, refused=problem)
    return replace(text_value(setting, text, origin), hidden=True)


def _file_problem(setting: Setting, path: Path, origin: Origin, reason: str) -> ConfigProblem:
    """Return the problem of a file. Its path is quoted only if it is certainly one.

    A user may set ``API_KEY_FILE`` to the secret itself.
    """
    reason, remedy = f"names a file that {reason}", "name a file with the value of the setting"
    certain = path.is_absolute() and len(path.parts) > 2 and _is_directory(path.parent)
    if certain or setting.quotable:
        text = str(path)
        return ConfigProblem(origin.name, reason, remedy, origin.source, text)
    size = describe_size(str(path))
    return ConfigProblem(origin.name, reason, remedy, origin.source, size=size)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


class _SecretFiles(Variables):
    """The files of a directory, whose names are those of variables."""

    def __init__(self, files: Mapping[str, Path], source: str, declared: frozenset[str]) -> None:
        super().__init__({name: str(path) for name, path in files.items()}, source, declared)

    def value_of(self, setting: Setting, spelled: str) -> SourceValue:
        path = Path(self._values[spelled])
        origin = Origin(self.source, spelled, secret=True)
        try:
            text = read_secret_file(path)
        except SecretFileError as error:
            remedy = "correct or remove the file"
            problem = ConfigProblem(spelled, str(error), remedy, self.source)
            return SourceValue(setting, None, origin, refused=problem)
        return replace(text_value(setting, text, origin), hidden=True)

    def find(self, setting: Setting, name: str) -> SourceValue | None:
        found = super().find(setting, name)
        return None if found is not None and found.value == "" else found

    def _is_path(self, spelled: str) -> bool:
        return False

    def _follows_files(self, setting: Setting, name: str) -> bool:
        return False


class _Dotenv(Variables):
    """The variables of a ``.env`` file, with the lines whose values are not usable."""

    def __init__(self, file: DotenvFile, source: str, declared: frozenset[str]) -> None:
        self.file = file
        super().__init__(file.values | dict.fromkeys(file.unusable, ""), source, declared)

    def value_of(self, setting: Setting, spelled: str) -> SourceValue:
        if (line := self.file.unusable.get(spelled)) is not None:
            place = f"{self.source}:{line.number}"
            problem = ConfigProblem(spelled, line.reason, line.remedy, place)
            return SourceValue(setting, None, Origin(self.source, spelled), refused=problem)
        found = super().value_of(setting, spelled)
        names = self.file.references.get(spelled)
        if not names:
            return found
        origin = replace(found.origin, secret=any(map(is_secret_name, names)))
        return replace(found, origin=origin, hidden=True)

    def _is_set(self, name: str) -> bool:
        return name in self.file.unusable or super()._is_set(name)

    def _is_path(self, spelled: str) -> bool:
        return spelled not in self.file.unusable and super()._is_path(spelled)


def declared_names(schema: Section) -> frozenset[str]:
    """Return the environment names of every setting, in capitals."""
    settings = (*schema.settings(), CONFIG, SECRETS_DIR)
    names = [name for setting in settings for name in setting.environment]
    names += [name for section in schema.sections() for name in section.names]
    return frozenset(name.upper() for name in names)


def read_environment(schema: Section, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield every setting that the environment names."""
    declared = declared_names(schema)
    yield from read_variables(schema, Variables(environ, "environment", declared))
    log_unknown_names(schema, declared, environ, "environment", is_shared=True)


def read_variables(schema: Section, variables: Variables) -> Iterator[Finding]:
    """Yield every setting that is among ``variables``."""
    for section in schema.sections():
        yield from _whole_section(section, variables)
    for setting in (*schema.settings(), CONFIG, SECRETS_DIR):
        if setting.table is not None:
            yield from entries(variables.entries(setting, setting.table.prefix))
            continue
        found = (variables.find(setting, name) for name in setting.environment)
        if (first := next(filter(None, found), None)) is not None:
            yield first
        if setting.structured:
            yield from variables.parts(setting)


def _whole_section(section: Section, variables: Variables) -> Iterator[Finding]:
    """Yield the settings in the JSON object that a variable has for a whole section."""
    whole = Setting(
        path=section.path,
        input_keys=section.input_keys,
        environment=section.names,
        annotation=section.model,
    )
    for name in section.names:
        found = variables.find(whole, name)
        if found is None:
            continue
        if found.refused is not None:
            yield found.refused
            return
        for each in from_value(section, found.value, found.origin):
            if isinstance(each, SourceValue):
                origin = replace(each.origin, secret=found.origin.secret)
                yield replace(each, hidden=found.hidden, origin=origin)
            else:
                yield each
        return


def read_dotenv(schema: Section, path: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the settings in a ``.env`` file. A missing file has none.

    A line that is not NAME=value is logged, and so is an unusable one of a name that is not a
    setting: the file may be shared with other programs.
    """
    try:
        text = read_settings_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return  # a directory with this name is a virtual environment
    except (OSError, UnicodeDecodeError) as error:
        reason = f"cannot be read: {cause(error)}"
        yield ConfigProblem(str(path), reason, "correct or remove the file")
        return
    file = parse_dotenv(text, environ)
    variables = _Dotenv(file, str(path), declared_names(schema))
    findings = [*read_variables(schema, variables)]
    yield from findings
    used = {found.origin.name for found in findings if isinstance(found, SourceValue)}
    log_lines(file, str(path), used)
    log_unknown_names(schema, declared_names(schema), file.values, str(path), is_shared=False)


def read_secrets(schema: Section, directory: Path, origin: Origin) -> Iterator[Finding]:
    """Yield the settings in a directory of secrets, whose name ``origin`` has."""
    try:
        files = list_secret_files(directory)
    except SecretFileError as error:
        remedy = "name a directory that has a file for each secret"
        yield ConfigProblem(origin.name, str(error), remedy, origin.source, str(directory))
        return
    declared = declared_names(schema)
    yield from read_variables(schema, _SecretFiles(files, str(directory), declared))
    names = dict.fromkeys(files, "")
    log_unknown_names(schema, declared, names, str(directory), is_shared=False)
