"""Parse the arguments of a command. Errors do not quote values, which may be secrets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from gizmopy.untrusted.hidden import MASK

_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """Parse like argparse, but without abbreviations and without values in errors.

    The error for ``gizmopy healthcheck --pasword=hunter2`` has only the name of the flag.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._args: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse ``args`` (default: the command line)."""
        self._args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage of the command and the error, and exit with 2."""
        from difflib import get_close_matches  # imported here to keep cold starts short

        if message.startswith(_UNKNOWN):
            message = _UNKNOWN + ", ".join(self._unknown()) + "; --help lists the known arguments"
        for word in sorted(self._args, key=len, reverse=True):
            flag, equals, value = word.partition("=")
            if equals and flag.startswith("-"):
                message = message.replace(word, f"{flag}={MASK}").replace(repr(value), MASK)
            elif not word.startswith("-") and not get_close_matches(word, self._choices(), n=1):
                message = message.replace(repr(word), MASK)
        super().error(message)

    def _choices(self) -> list[str]:
        return [str(choice) for action in self._actions for choice in action.choices or ()]

    def _unknown(self) -> Iterator[str]:
        """Yield the name of each unknown flag, and the position of each other unknown argument."""
        for number, word in enumerate(self._args, 1):
            name = word.partition("=")[0]
            if name in self._option_string_actions:
                continue
            yield name if name.startswith("--") else f"argument {number}"
