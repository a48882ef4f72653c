"""``python -m pubsubtest URL``: put a driver to every check, against its own broker."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import logging
import os
import sys
from collections.abc import Sequence

from gizmopy.errors import GizmoError
from gizmopy.pubsub import registry as drivers
from pubsubtest.conformance import Harness, Result, checks, run

_WORDS = {"passed": "ok  ", "failed": "FAIL", "not applicable": "n/a "}
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code: 1 where any failed, 2 where none could run."""
    options = _parser().parse_args(arguments)
    logging.getLogger("gizmopy").setLevel(logging.NOTSET if options.verbose else logging.CRITICAL)
    try:
        return asyncio.run(_main(options))
    except KeyboardInterrupt:
        return _INTERRUPTED


async def _main(options: argparse.Namespace) -> int:
    try:
        harness = url_harness(options.url)
        await harness.open().aclose()
    except (GizmoError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    report = await run(harness, only=options.only, timeout=options.timeout, tell=_tell)
    print(report, flush=True)
    code = 1 if report.count("failed") else 0
    await _end_what_is_left(code)
    return code


def url_harness(url: str) -> Harness:
    """Return the harness of a registered driver: topics are made by its ``provision``."""
    return Harness(
        open=lambda: drivers.open_driver(url),
        provision=lambda topic, subscriptions: drivers.provision(url, topic, subscriptions),
        creates_topics=not drivers.has_provision(url),
    )


def _tell(result: Result) -> None:
    """Print the line of one check, and why it failed."""
    word, name = _WORDS[result.outcome], result.check.name
    print(f"{word}  {name}: {result.check.sentence}", flush=True)
    if result.reason:
        for line in result.reason.splitlines()[:5]:
            print(f"      {line}", flush=True)


async def _end_what_is_left(code: int) -> None:
    """Cancel what failed checks have left running; what does not heed that would run for ever."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, immortal = await asyncio.wait(left, timeout=1.0)
        if immortal:
            os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pubsubtest",
        description="Check a driver against its broker. It makes topics of its own.",
    )
    parser.add_argument("url", help="the broker, such as memory://?lease=1")
    parser.add_argument(
        "--only", action="append", default=[], type=_check_name, metavar="NAME", help="one check"
    )
    parser.add_argument(
        "--timeout",
        default=60.0,
        type=_seconds,
        metavar="SECONDS",
        help="for each check (default: 60)",
    )
    parser.add_argument("--verbose", action="store_true", help="show what gizmopy logs")
    return parser


def _check_name(text: str) -> str:
    names = [check.name for check in checks()]
    if text not in names:
        near = ", ".join(difflib.get_close_matches(text, names, cutoff=0.4))
        hint = f"; near to it are: {near}" if near else "; docs/conformance.md lists them"
        raise argparse.ArgumentTypeError(f"no check is called {text!r}{hint}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
