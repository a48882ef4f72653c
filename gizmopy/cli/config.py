"""``gizmopy config [module:Service]``: print every setting, its value, and where that came from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gizmopy.cli.target import find_service
from gizmopy.config import Settings, load, report
from gizmopy.server import settings_class


def main(argv: Sequence[str]) -> int:
    """Print the settings as they would be for a daemon started here and now, and return 0.

    Flags after the service are read like those of ``gizmopy run``. Secrets are masked.
    """
    parser = argparse.ArgumentParser(prog="gizmopy config", description=__doc__)
    parser.add_argument("target", metavar="module:Service", nargs="?", help="default: any daemon")
    parser.add_argument("--markdown", action="store_true", help="print the declarations for docs")
    chosen, flags = parser.parse_known_args(argv)
    kind = settings_class(find_service(chosen.target)) if chosen.target else Settings
    if chosen.markdown:
        print(report.as_markdown(report.rows(kind)))
    else:
        print(report.as_text(report.rows(load(kind, flags))))
    return 0
