"""``python -m pubsubtest URL``: put a driver to every check, against its own broker."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from gizmopy.errors import GizmoError
from gizmopy.pubsub import drivers
from pubsubtest.conformance import Harness, Report, Result, checks, run

_WORDS = {"passed": "ok  ", "failed": "FAIL", "not applicable": "n/a "}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code: 1 where any failed, 2 where none could run."""
    options = _parser().parse_args(arguments)
    logging.getLogger("gizmopy").setLevel(logging.NOTSET if options.verbose else logging.CRITICAL)
    try:
        harness = url_harness(options.url)
        harness.open()
    except GizmoError as error:
        print(error, file=sys.stderr)
        return 2
    report = asyncio.run(_run(harness, options))
    print(report)
    return 1 if report.count("failed") else 0


def url_harness(url: str) -> Harness:
    """Return the harness of a registered driver: topics are made by its ``provision``."""
    return Harness(
        open=lambda: drivers.open_driver(url),
        provision=lambda topic, subscriptions: drivers.provision(url, topic, subscriptions),
        creates_topics=not drivers.has_provision(url),
    )


async def _run(harness: Harness, options: argparse.Namespace) -> Report:
    return await run(harness, only=options.only, timeout=options.timeout, tell=_tell)


def _tell(result: Result) -> None:
    """Print the line of one check, and why it failed."""
    word, name = _WORDS[result.outcome], result.check.name
    print(f"{word}  {name}: {result.check.sentence}", flush=True)
    if result.reason:
        for line in result.reason.splitlines()[:5]:
            print(f"      {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pubsubtest",
        description="Check a driver against its broker. It makes topics of its own.",
    )
    parser.add_argument("url", help="the broker, such as memory://?lease=1")
    names = [check.name for check in checks()]
    parser.add_argument(
        "--only", action="append", default=[], choices=names, metavar="NAME", help="one check"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds for each check (default: 60)"
    )
    parser.add_argument("--verbose", action="store_true", help="show what gizmopy logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
