"""Read settings from the command line: ``--name value``, ``--name=value``, ``--[no-]boolean``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gizmopy.config.origin import Origin
from gizmopy.config.schema import Setting
from gizmopy.config.sources import REMOVE, Finding, SourceValue, from_value, suggest, text_value
from gizmopy.errors import ConfigProblem

COMMAND_LINE = "command line"

_FLAG_NAME = re.compile(r"--?|--[A-Za-z][A-Za-z0-9_.-]{0,63}")


def read_flags(settings: Iterable[Setting], argv: Sequence[str]) -> Iterator[Finding]:
    """Yield the settings of a command line, and a problem for each argument that is not valid."""
    flags = _flags(settings)
    words = deque(argv)
    may_be_secret = False  # whether the next word without a flag may be a piece of a secret
    boolean = ""  # the flag before the next word, if it took no value
    while words:
        word = words.popleft()
        name, equals, _ = word.partition("=")
        if name in flags:
            boolean = name if not equals and flags[name].implied is not None else ""
            may_be_secret = flags[name].setting.secret
            yield from _read_flag(flags, word, words)
        elif word.startswith("-"):
            may_be_secret, boolean = True, ""
            if not equals and words and not words[0].startswith("-"):
                words.popleft()  # probably the value of the unknown flag
            remedy = _suggest_flag(name, flags)
            shown = _flag_name(name, similar=remedy != REMOVE)
            yield ConfigProblem(shown, "is not a known flag", remedy, COMMAND_LINE)
        else:
            remedy = REMOVE if may_be_secret else _suggest_flag(name, flags)
            if boolean and remedy == REMOVE:
                remedy = f"remove it, or write {boolean}=VALUE"
            # Only a word that is similar to a flag's name is quoted: any other may be a secret.
            shown = f"argument {len(argv) - len(words)}" if remedy.startswith(REMOVE) else name
            if equals and remedy.startswith("did you mean"):
                remedy = f"{remedy} A variable is set ahead of the command"
            yield ConfigProblem(shown, "does not belong to a flag", remedy, COMMAND_LINE)


def _flag_name(name: str, *, similar: bool) -> str:
    """Return the name of an unknown flag, without a possible value: ``-phunter2`` has one."""
    return name if similar or _FLAG_NAME.fullmatch(name) else f"{name[:2]}…"


@dataclass(frozen=True, slots=True)
class _Flag:
    setting: Setting
    implied: bool | None
    """The value of the flag alone, without one behind it; None if it needs a value."""


def _flags(settings: Iterable[Setting]) -> dict[str, _Flag]:
    flags = {
        setting.flag: _Flag(setting, True if setting.boolean else None) for setting in settings
    }
    negations = {
        flag.replace("--", "--no-", 1): _Flag(known.setting, False)
        for flag, known in flags.items()
        if known.implied
    }
    return negations | flags


def _read_flag(flags: Mapping[str, _Flag], word: str, words: deque[str]) -> Iterator[Finding]:
    name, equals, text = word.partition("=")
    flag = flags[name]
    origin = Origin(COMMAND_LINE, name)
    if not flag.setting.takes_flag:
        if not equals and _value_follows(flags, flag.setting, words):
            words.popleft()
        variable = flag.setting.environment[0]
        reason = "is a secret, and every user of the machine can read a command line (ps)"
        remedy = f"set {variable}, or write it into the file that --config names"
        yield ConfigProblem(name, reason, remedy, COMMAND_LINE)
    elif not equals and flag.implied is not None:
        yield SourceValue(flag.setting, flag.implied, origin)
    elif equals and flag.implied is False:
        yield ConfigProblem(name, "takes no value", f"write only {name}", COMMAND_LINE)
    elif equals or _value_follows(flags, flag.setting, words):
        value = text_value(flag.setting, text if equals else words.popleft(), origin)
        if value.refused is not None or flag.setting.table is None:
            yield value
        else:
            yield from from_value(flag.setting, value.value, origin)
    else:
        yield ConfigProblem(name, "has no value", f"write {name}=VALUE", COMMAND_LINE)


def _value_follows(flags: Mapping[str, _Flag], setting: Setting, words: deque[str]) -> bool:
    if not words or words[0].partition("=")[0] in flags:
        return False
    # If a secret begins with "--", it must count as the value here: else the next step would show
    # it as the name of an unknown flag.
    return setting.secret or not words[0].startswith("--")


def _suggest_flag(name: str, flags: Mapping[str, _Flag]) -> str:
    """Return the remedy for an unknown flag.

    It may be a flag in another spelling, the name of a variable, or a flag of other servers.
    """
    if (remedy := _OTHERS_FLAGS.get(name)) is not None:
        return remedy
    plain = name.lstrip("-").lower().replace("_", "-")
    if f"--{plain}" in flags:
        return f"did you mean --{plain}?"
    for flag, known in flags.items():
        variables = (each.lower().replace("_", "-") for each in known.setting.environment)
        if plain in variables and known.implied is not False:
            return f"did you mean {flag}?"
    return suggest(plain, [flag.removeprefix("--") for flag in flags], "--")


_ADDRESS = "write --http-addr=ADDRESS, and --http-port=PORT"
_WORKERS = "remove it: a daemon is one process; start several, or several containers"
_OTHERS_FLAGS = {
    "--host": _ADDRESS,
    "--bind": _ADDRESS,
    "-b": _ADDRESS,
    "--port": "write --http-port=PORT",
    "-p": "write --http-port=PORT",
    "--workers": _WORKERS,
    "-w": _WORKERS,
    "--reload": "remove it: a daemon does not load changed code; run it again",
    "--debug": "write --log-level=debug",
    "--verbose": "write --log-level=debug",
    "-v": "write --log-level=debug",
    "-c": "write --config=FILE",
    "--env-file": "remove it: .env in the working directory is read, or env_file of the class",
    "--ssl-keyfile": "write --tls-key=FILE",
    "--ssl-certfile": "write --tls-cert=FILE",
    "--root-path": "set prefix in the class of the service",
    "--factory": "remove it: name the class of the service",
}
"""The remedies for flags of uvicorn, gunicorn and others that gizmopy does not have."""
