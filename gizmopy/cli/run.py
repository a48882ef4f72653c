"""``gizmopy run module:Service``: run a service until a signal stops it."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.cli.parser import Parser
from gizmopy.cli.target import SERVICE, find_service, split_service
from gizmopy.server import Signals, run
from gizmopy.server.lifecycle.standard_streams import reserve_standard_streams


def main(argv: Sequence[str]) -> int:
    """Catch signals, import the service, run it, and return its exit code.

    Flags after the service are settings.
    """
    reserve_standard_streams()  # the import of the service may open files
    signals = Signals()
    parser = Parser(prog="gizmopy run", description=__doc__)
    parser.usage = "%(prog)s module:Service [flags: see gizmopy config module:Service]"
    parser.add_argument("target", metavar=SERVICE)
    target, flags = split_service(argv)
    chosen = parser.parse_args([target] if target else argv[:1])
    return run(find_service(chosen.target), flags, signals)
