"""Read settings from the command line: ``--name value``, ``--name=value``, ``--[no-]boolean``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gizmopy.config.origin import Origin
from gizmopy.config.schema import Setting
from gizmopy.config.sources import REMOVE, Finding, Given, decoded, from_value, suggest
from gizmopy.errors import ConfigProblem

COMMAND_LINE = "command line"

_FLAG_NAME = re.compile(r"--?|--[A-Za-z][A-Za-z0-9_.-]{0,63}")


def read_flags(settings: Iterable[Setting], argv: Sequence[str]) -> Iterator[Finding]:
    """Yield the settings of a command line: ``--name value``, ``--name=value``, ``--[no-]flag``."""
    flags = _flags(settings)
    words = deque(argv)
    hide = False  # whether a word that belongs to no flag may be a piece of a secret
    while words:
        word = words.popleft()
        name, equals, _ = word.partition("=")
        if name in flags:
            hide = flags[name].setting.secret
            yield from _read_flag(flags, word, words)
        elif word.startswith("-"):
            hide = True
            if not equals and words and not words[0].startswith("-"):
                words.popleft()  # its value, in all likelihood
            remedy = _suggest_flag(name, flags)
            known = remedy != REMOVE
            yield ConfigProblem(_shown(name, known), "is not a known flag", remedy, COMMAND_LINE)
        else:
            remedy = REMOVE if hide else _suggest_flag(name, flags)
            # Only a word that is like the name of a flag is quoted: another may be a secret.
            shown = f"argument {len(argv) - len(words)}" if remedy == REMOVE else word
            yield ConfigProblem(shown, "belongs to no flag", remedy, COMMAND_LINE)


def _shown(name: str, known: bool) -> str:
    """Return the name of an unknown flag as far as it is one: -phunter2 has a value in it."""
    return name if known or _FLAG_NAME.fullmatch(name) else f"{name[:2]}…"


@dataclass(frozen=True, slots=True)
class _Flag:
    setting: Setting
    alone: bool | None
    """Its value if none is given; None if it needs one."""


def _flags(settings: Iterable[Setting]) -> dict[str, _Flag]:
    flags = {
        setting.flag: _Flag(setting, True if setting.boolean else None) for setting in settings
    }
    negations = {
        flag.replace("--", "--no-", 1): _Flag(known.setting, False)
        for flag, known in flags.items()
        if known.alone
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
        remedy = f"set {variable}, or put it in the file that --config names"
        reason = "is a secret, and every user of the machine sees a command line (ps)"
        yield ConfigProblem(name, reason, remedy, COMMAND_LINE)
    elif not equals and flag.alone is not None:
        yield Given(flag.setting, flag.alone, origin)
    elif equals and flag.alone is False:
        yield ConfigProblem(name, "takes no value", f"write {name} alone", COMMAND_LINE)
    elif equals or _value_follows(flags, flag.setting, words):
        value = decoded(flag.setting, text if equals else words.popleft())
        yield from from_value(flag.setting, value, origin)
    else:
        yield ConfigProblem(name, "has no value", f"write it like {name}=VALUE", COMMAND_LINE)


def _value_follows(flags: Mapping[str, _Flag], setting: Setting, words: deque[str]) -> bool:
    if not words or words[0].partition("=")[0] in flags:
        return False
    # A word like an unknown flag would be shown as one, and it may be a secret.
    return setting.secret or not words[0].startswith("--")


def _suggest_flag(name: str, flags: Iterable[str]) -> str:
    return suggest(name.lstrip("-"), [flag.removeprefix("--") for flag in flags], "--")
