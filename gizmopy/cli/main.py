"""Choose the command. Each has a module of its own, which is imported when it is called."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import gizmopy
from gizmopy.cli.parser import Parser
from gizmopy.errors import GizmoError
from gizmopy.untrusted.text import as_lines

TARGET = re.compile(r"[A-Za-z_][\w./]*(?:\.py|:[A-Za-z_]\w*)", re.ASCII)
"""The name of a service, which may be written without a command by mistake."""

COMMANDS = {
    "run": "run a service: gizmopy run module:Service [--http-port 9000 ...]",
    "routes": "print the endpoints and subscriptions of a service",
    "config": "print every setting of a service with its value and the value's source",
    "healthcheck": "probe a running daemon; exit 0 if it is healthy, else 1",
    "dead-letters": "list, show, redrive or drop the dead letters of a channel",
    "redrive": "the short form of dead-letters redrive",
}


def _load(command: str) -> Any:
    return import_module(f"gizmopy.cli.{command.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names (default: the command line), and return its exit code."""
    parser = Parser(prog="gizmopy", description=gizmopy.__doc__)
    parser.add_argument("--version", action="version", version=f"gizmopy {gizmopy.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False).set_defaults(command=name)
    words = sys.argv[1:] if argv is None else argv
    if words and TARGET.fullmatch(words[0]):
        parser.error("the command is missing; write gizmopy run module:Service")
    chosen, rest = parser.parse_known_args(argv)
    if "command" not in chosen:
        parser.print_help()
        return 2
    # The collector takes an eighth of the start, and imported modules contain no garbage.
    gc.disable()
    try:
        return int(_load(chosen.command).main(rest))
    except GizmoError as error:
        print(f"gizmopy: {as_lines(str(error))}", file=sys.stderr)
        return error.exit_code
    finally:
        gc.enable()
