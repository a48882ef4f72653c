"""``gizmopy config [module:Service]``: print every setting, its value and the value's source."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gizmopy.cli.parser import Parser
from gizmopy.cli.target import find_service
from gizmopy.config import Settings, load, report
from gizmopy.config.secrets.reveal import revealed_value
from gizmopy.server.service import settings_class
from gizmopy.untrusted.text import escape

MARKDOWN = """\
# Settings

Every daemon has these settings, and those that its service adds. `gizmopy config module:Service`
prints all of them, each with its value and the source of the value. `make docs` writes this page.

Each source overrides the ones before it: defaults, a file, `.env`, a directory of secrets, the
environment, flags. `--config FILE` or `GIZMO_CONFIG` names the file. It is JSON, TOML or YAML, by
its suffix, and uses the names of the first column. `--secrets-dir` or `GIZMO_SECRETS_DIR` names the
directory, which has a file for each secret. Each variable can also be in a file, whose path is in
the variable with `_FILE` behind its name. An empty variable counts as unset. A secret has no flag.

Write a duration as `1m30s`, `500ms`, or as a number of seconds. In variables and flags, write lists
and tables as JSON; in lists of hosts, networks and origins commas do as well: `a.org,b.org`. A
setting that is a model has a variable and a flag for each of its fields: `DATABASE__HOST`,
`--database.host`. Each setting of a broker, in a section of its own below, can also be a parameter
in the broker's URL, by the last part of its name: see [kafka.md](kafka.md).

"""


EPILOG = "NAME is the name of a setting, of its variable or of its flag, as in database.password."


def main(argv: Sequence[str]) -> int:
    """Print the settings of a daemon that is started here and now, and return 0.

    Flags after the service are read as by ``gizmopy run``. A value that may be a secret is hidden;
    ``--show`` prints the value of one setting in full.
    """
    parser = Parser(prog="gizmopy config", description=__doc__, epilog=EPILOG)
    parser.usage = "%(prog)s [module:Service] [--markdown] [--show NAME] [flags of the service]"
    parser.add_argument(
        "--markdown", action="store_true", help="print the declarations as Markdown"
    )
    parser.add_argument(
        "--show", metavar="NAME", help="print the value of one setting in full, also of a secret"
    )
    target = argv[0] if argv and not argv[0].startswith("-") else ""
    chosen, flags = parser.parse_known_args(argv[1:] if target else argv)
    kind = settings_class(find_service(target)) if target else Settings
    if chosen.markdown:
        print(MARKDOWN + report.as_markdown(report.rows(kind)))
    elif chosen.show is not None:
        print(_plain(revealed_value(load(kind, flags), chosen.show)))
    else:
        print(
            report.as_text([*report.with_unused_sections_collapsed(report.rows(load(kind, flags)))])
        )
    return 0


def _plain(text: str) -> str:
    """Return a value unchanged for a program, and escaped for a terminal."""
    return escape(text, keep="\n\t") if sys.stdout.isatty() else text
