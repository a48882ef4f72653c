"""``python -m pubsubtest URL``: run the conformance checks of a driver against its broker."""

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

_LABELS = {"passed": "ok  ", "failed": "FAIL", "not applicable": "n/a "}
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code: 1 if any failed, 2 if none could run."""
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
    report = await run(harness, only=options.only, timeout=options.timeout, tell=_print_result)
    print(report, flush=True)
    code = 1 if report.count("failed") else 0
    await _end_leftover_tasks(code)
    return code


def url_harness(url: str) -> Harness:
    """Return the harness of a registered driver, whose ``provision`` creates topics."""
    return Harness(
        open=lambda: drivers.open_driver(url),
        provision=lambda topic, subscriptions: drivers.provision(url, topic, subscriptions),
        creates_topics=not drivers.has_provision(url),
    )


def _print_result(result: Result) -> None:
    """Print the line of one check, and why it failed."""
    label, name = _LABELS[result.outcome], result.check.name
    print(f"{label}  {name}: {result.check.sentence}", flush=True)
    if result.reason:
        for line in result.reason.splitlines()[:5]:
            print(f"      {line}", flush=True)


async def _end_leftover_tasks(code: int) -> None:
    """Cancel the tasks that failed checks left running; exit if one ignores its cancellation."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, still_running = await asyncio.wait(left, timeout=1.0)
        if still_running:
            os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pubsubtest",
        description="Check a driver against its broker. The checks create their own topics.",
    )
    parser.add_argument("url", help="the broker, such as memory://?lease=1")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        type=_check_name,
        metavar="NAME",
        help="a single check",
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
        hint = f"; similar names: {near}" if near else "; docs/conformance.md lists them"
        raise argparse.ArgumentTypeError(f"there is no check {text!r}{hint}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
