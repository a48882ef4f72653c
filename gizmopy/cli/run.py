"""``gizmopy run module:Service``: run a service until a signal stops it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gizmopy.cli.target import find_service
from gizmopy.server import Signals, run


def main(argv: Sequence[str]) -> int:
    """Catch signals, then import the service and run it; flags after it are its settings'."""
    signals = Signals()
    parser = argparse.ArgumentParser(prog="gizmopy run", description=__doc__, add_help=False)
    parser.add_argument("target", metavar="module:Service")
    chosen, flags = parser.parse_known_args(argv)
    return run(find_service(chosen.target), flags, signals)
