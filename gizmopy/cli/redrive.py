"""``gizmopy redrive CHANNEL``: move the dead letters of a channel back to where they came from.

A dead letter names its own source topic. It moves back only to a topic that the person at the
terminal, the settings or the service names. If none is named, the topics are listed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gizmopy.cli.parser import Parser
from gizmopy.cli.target import find_service
from gizmopy.config import Settings, load
from gizmopy.config.backends.kafka import without_group
from gizmopy.config.urls import redacted_url
from gizmopy.errors import UsageError
from gizmopy.pubsub.driver import Driver
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import REDRIVEN, Plan, Redrive
from gizmopy.pubsub.registry import open_driver
from gizmopy.pubsub.subscription import collect_subscriptions
from gizmopy.server import Service, make_service
from gizmopy.server.service import settings_class
from gizmopy.untrusted.text import quoted

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
    """Move dead letters, print a summary, and return 0, or 1 if any failed or was not allowed.

    Flags that are not this command's own are settings, as for ``gizmopy run``.
    """
    parser = _parser()
    argv, target = _split(argv)
    chosen, flags = parser.parse_known_args(argv)
    if not chosen.wait > 0:
        parser.error(f"--wait {chosen.wait:g}: give seconds above 0")
    if chosen.limit is not None and chosen.limit < 1:
        parser.error(f"--limit {chosen.limit}: give 1 or more")
    service = find_service(target) if target else None
    settings = load(settings_class(service) if service else Settings, flags).settings
    url = settings.kafka.with_defaults(chosen.url) if chosen.url else settings.broker_url
    del chosen.url
    chosen.from_topics = frozenset(chosen.from_topics)
    if service:
        chosen.from_topics |= _channels(service, settings)
    plan = Plan(**vars(chosen))
    code, refused = _redrive(plan, url, settings)
    if refused and (allowed := _ask(refused)):
        plan = replace(plan, from_topics=plan.from_topics | allowed)
        code, refused = _redrive(plan, url, settings)
    if refused:
        _print_refused(refused)
    return code or int(bool(refused))


def _split(argv: Sequence[str]) -> tuple[Sequence[str], str]:
    """Return the arguments without the service behind the channel, and the service."""
    # Not left to argparse: the value of a flag that is a setting would be the service.
    if len(argv) > 1 and ":" in argv[1] and not (argv[0] + argv[1]).startswith("-"):
        return [argv[0], *argv[2:]], argv[1]
    return argv, ""


def _channels(service: type[Service], settings: Settings) -> frozenset[str]:
    """Return the channels that a service consumes: they are where its dead letters came from."""
    subscriptions = collect_subscriptions(make_service(service, settings), "redrive")
    return frozenset(each.channel for each in subscriptions)


def _redrive(plan: Plan, url: str, settings: Settings) -> tuple[int, Mapping[str, int]]:
    """Run once; return the exit code, and how many dead letters are not allowed, by topic."""
    redrive = Redrive(
        plan,
        url,
        topics=settings.topic_urls,
        subscriptions=settings.subscription_urls,
        on_listed=_print_row,
        on_failed=_print_failure,
        open_driver=_open_driver,
    )
    code = _run(redrive, dry_run=plan.dry_run)
    return code, {} if code == INTERRUPTED else redrive.refused


def _print_refused(refused: Mapping[str, int]) -> None:
    for topic, count in refused.items():
        print(f"{count} stay, from {_named(topic)}", file=sys.stderr)
    print(
        "no setting and no service names these topics; allow one with "
        "--from-topic NAME, name the service as in gizmopy redrive CHANNEL module:Service, or "
        "publish all with --to CHANNEL",
        file=sys.stderr,
    )


def _ask(refused: Mapping[str, int]) -> frozenset[str]:
    """Return the topics that the person at the terminal allows; none if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return frozenset()
    return frozenset(
        topic
        for topic, count in refused.items()
        if topic and _yes(f"{count} from {_named(topic)}: publish them there? [y/N] ")
    )


def _yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _named(topic: str) -> str:
    return f"topic '{quoted(topic)}'" if topic else "other topics"


def _parser() -> Parser:
    parser = Parser(
        prog="gizmopy redrive",
        description="Move the dead letters of a channel back to the topics that they came from. "
        "Each is published, and only when the broker has confirmed that is it removed here. A dead "
        "letter moves only to a topic that module:Service consumes, that GIZMO_TOPIC_* or "
        "GIZMO_SUBSCRIPTION_* name, or that --to or --from-topic name; the others are counted.",
        epilog="Whatever else is given is a setting, as for gizmopy run.",
        usage="%(prog)s CHANNEL [module:Service] [flags]",
    )
    parser.add_argument("channel", metavar="CHANNEL", help="the channel that holds dead letters")
    parser.add_argument("--url", help="the broker; default: GIZMO_PUBSUB_URL")
    parser.add_argument(
        "--subscription", default=Plan.subscription, help="read them as; default: %(default)s"
    )
    parser.add_argument("--to", default="", metavar="CHANNEL", help="publish all of them there")
    parser.add_argument(
        "--from-topic",
        action="append",
        default=[],
        dest="from_topics",
        metavar="NAME",
        help="also move the dead letters from this topic; may be repeated",
    )
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
    driver = open_driver(without_group(url))  # in the daemon's group it would take its partitions
    if driver.capabilities.process_local:
        raise UsageError(
            f"{redacted_url(url)} keeps its messages in the memory of the daemon's process, so "
            "another process cannot read its dead letters; name a broker that both can reach with "
            "--url or GIZMO_PUBSUB_URL"
        )
    return driver


def _print_row(message: Message) -> None:
    attributes = {"dl-message-id": message.id, **message.attributes}
    print("\t".join(quoted(attributes.get(name, "")) or "-" for name in COLUMNS))


def _print_failure(message: Message, reason: str) -> None:
    identity = message.attributes.get("dl-message-id", message.id)
    print(f"message {quoted(identity)}: {quoted(reason)}", file=sys.stderr)
