"""``gizmopy redrive CHANNEL``: move the dead letters of a channel back to where they came from."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from gizmopy.config import Settings, load
from gizmopy.config.kafka import ungrouped
from gizmopy.errors import UsageError
from gizmopy.pubsub.driver import Driver
from gizmopy.pubsub.drivers import open_driver, redact
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import REDRIVEN, Plan, Redrive
from gizmopy.untrusted import quoted

INTERRUPTED = 130
COLUMNS = (
    "dl-message-id",
    "dl-reason",
    "dl-exception",
    "dl-attempts",
    "dl-source-topic",
    "dl-first-failed-at",
    REDRIVEN,
)


def main(argv: Sequence[str]) -> int:
    """Move dead letters, print a summary, and return 0, or 1 where any failed.

    Flags that are not this command's own are settings, as for ``gizmopy run``.
    """
    parser = _parser()
    chosen, flags = parser.parse_known_args(argv)
    if not chosen.wait > 0:
        parser.error(f"--wait {chosen.wait:g}: give seconds above 0")
    if chosen.limit is not None and chosen.limit < 1:
        parser.error(f"--limit {chosen.limit}: give 1 or more")
    settings = load(Settings, flags).settings
    url = settings.kafka.completed(chosen.url) if chosen.url else settings.broker_url
    del chosen.url
    redrive = Redrive(
        Plan(**vars(chosen)),
        url,
        topics=settings.topic_urls,
        subscriptions=settings.subscription_urls,
        on_listed=_print_row,
        on_failed=_print_failure,
        open_driver=_open_driver,
    )
    return _run(redrive, dry_run=chosen.dry_run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gizmopy redrive",
        description="Move the dead letters of a channel back to the topics that they came from. "
        "Each is published, and only when the broker has confirmed that is it removed here.",
        epilog="Whatever else is given is a setting, as for gizmopy run.",
        allow_abbrev=False,
    )
    parser.add_argument("channel", metavar="CHANNEL", help="the channel that holds dead letters")
    parser.add_argument("--url", help="the broker; default: GIZMO_PUBSUB_URL")
    parser.add_argument(
        "--subscription", default=Plan.subscription, help="read them as; default: %(default)s"
    )
    parser.add_argument("--to", default="", metavar="CHANNEL", help="publish all of them there")
    parser.add_argument(
        "--match", default="", metavar="TEXT", help="only those with TEXT in reason or exception"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="take N of them at most")
    parser.add_argument(
        "--wait",
        type=float,
        default=Plan.wait,
        metavar="SECONDS",
        help="end when none has come for so long; default: %(default)g",
    )
    parser.add_argument("--dry-run", action="store_true", help="list them, and move nothing")
    return parser


def _run(redrive: Redrive, *, dry_run: bool) -> int:
    """Run to the end or an interrupt, and print what became of the dead letters."""
    if dry_run:
        print("\t".join(COLUMNS))
    interrupted = False
    try:
        asyncio.run(redrive.run())
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if redrive.stopped:
            print(quoted(f"{redrive.stopped}; there may be more"), file=sys.stderr)
        print(f"{redrive.redriven} redriven, {redrive.left} left, {redrive.failed} failed")
    return INTERRUPTED if interrupted else int(redrive.failed > 0)


def _open_driver(url: str) -> Driver:
    """Open a driver; refuse a broker that is another one in each process."""
    driver = open_driver(ungrouped(url))  # in the daemon's group it would take its partitions
    if driver.capabilities.process_local:
        raise UsageError(
            f"{redact(url)} lives in the process of its daemon, and its dead letters are gone with "
            "it; name a broker that others can reach with --url or GIZMO_PUBSUB_URL"
        )
    return driver


def _print_row(message: Message) -> None:
    attributes = {"dl-message-id": message.id, **message.attributes}
    print("\t".join(quoted(attributes.get(name, "")) or "-" for name in COLUMNS))


def _print_failure(message: Message, reason: str) -> None:
    identity = message.attributes.get("dl-message-id", message.id)
    print(f"message {quoted(identity)}: {quoted(reason)}", file=sys.stderr)
