"""``gizmopy config [module:Service]``: print every setting, its value, and where that came from."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gizmopy.cli.parser import Parser
from gizmopy.cli.target import find_service
from gizmopy.config import Settings, load, report
from gizmopy.config.secrets.revealing import value_of
from gizmopy.server.service import settings_class
from gizmopy.untrusted.text import escape

MARKDOWN = """\
# Settings

What every daemon can be told. A service's own settings come on top: `gizmopy config module:Service`
shows both, with each value and where it came from. This page is written by `make docs`.

Defaults < a file < `.env` < the environment < flags. `--config FILE` or `GIZMO_CONFIG` names the
file: JSON, TOML or YAML by its suffix, with the names of the first column. An empty variable counts
as unset. A secret has no flag. Durations are written `1m30s`, `500ms`, or as seconds; in variables
and flags, lists and tables are JSON. A setting that is a model has a variable and a flag for each
of its fields: `DATABASE__HOST`, `--database.host`. The settings of a broker, in a section of their
own below, may as well stand behind the `?` of its URL, under the names of their fields:
[kafka.md](kafka.md).

"""


EPILOG = "NAME is the name of a setting, of its variable or of its flag: database.password."


def main(argv: Sequence[str]) -> int:
    """Print the settings as they would be for a daemon started here and now, and return 0.

    Flags after the service are read like those of ``gizmopy run``. A value that may be a secret is
    hidden; ``--show`` prints the value of one setting, even so.
    """
    parser = Parser(prog="gizmopy config", description=__doc__, epilog=EPILOG)
    parser.usage = "%(prog)s [module:Service] [--markdown] [--show NAME] [flags of the service]"
    parser.add_argument("--markdown", action="store_true", help="print the declarations for docs")
    parser.add_argument("--show", metavar="NAME", help="print one value in full, a secret too")
    target = argv[0] if argv and not argv[0].startswith("-") else ""
    chosen, flags = parser.parse_known_args(argv[1:] if target else argv)
    kind = settings_class(find_service(target)) if target else Settings
    if chosen.markdown:
        print(MARKDOWN + report.as_markdown(report.rows(kind)))
    elif chosen.show is not None:
        print(_plain(value_of(load(kind, flags), chosen.show)))
    else:
        print(report.as_text([*report.folded(report.rows(load(kind, flags)))]))
    return 0


def _plain(text: str) -> str:
    """Return a value as it is for a program, and escaped for a terminal."""
    return escape(text, keep="\n\t") if sys.stdout.isatty() else text
