"""``gizmopy redrive CHANNEL``: publish the dead letters of a channel to their source topics again.

The source topic is an attribute of a dead letter, so its sender may have chosen it. A dead letter
is published only to a topic that the user, the settings or the service names. The others are
counted by topic.
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
from gizmopy.server.mounting import mounted_on
from gizmopy.server.service import settings_class
from gizmopy.untrusted.text import quoted

INTERRUPTED = 130
COLUMNS = (
    "gizmo-dl-message-id",
    "gizmo-dl-reason",
    "gizmo-dl-exception",
    "gizmo-dl-attempts",
    "gizmo-dl-source-topic",
    "gizmo-dl-first-failed-at",
    REDRIVEN,
)


def main(argv: Sequence[str]) -> int:
    """Move dead letters, print a summary, and return 0, or 1 if one failed or was not allowed.

    Flags that are not of this command are settings, as for ``gizmopy run``.
    """
    parser = _parser()
    argv, target = _split_service(argv)
    chosen, flags = parser.parse_known_args(argv)
    if not chosen.wait > 0:
        parser.error(f"--wait {chosen.wait:g}: is not above 0; write a number of seconds")
    if chosen.limit is not None and chosen.limit < 1:
        parser.error(f"--limit {chosen.limit}: is below 1; write 1 or more")
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


def _split_service(argv: Sequence[str]) -> tuple[Sequence[str], str]:
    """Return the arguments without the service after the channel, and the service."""
    # argparse does not know the flags of settings: it would take the value of one for the service.
    if len(argv) > 1 and ":" in argv[1] and not (argv[0] + argv[1]).startswith("-"):
        return [argv[0], *argv[2:]], argv[1]
    return argv, ""


def _channels(service: type[Service], settings: Settings) -> frozenset[str]:
    """Return the channels that a service consumes: the source topics of its dead letters."""
    made = make_service(service, settings)
    subscriptions = collect_subscriptions(made, "redrive", mounted_on(made))
    return frozenset(each.channel for each in subscriptions)


def _redrive(plan: Plan, url: str, settings: Settings) -> tuple[int, Mapping[str, int]]:
    """Run once; return the exit code, and the number of dead letters not allowed, by topic."""
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
        print(f"{count} not moved, from {_describe(topic)}", file=sys.stderr)
    print(
        "neither the settings nor a service names these topics; allow one with --from-topic NAME, "
        "name the service as in gizmopy redrive CHANNEL module:Service, or publish all dead "
        "letters to one channel with --to CHANNEL",
        file=sys.stderr,
    )


def _ask(refused: Mapping[str, int]) -> frozenset[str]:
    """Return the topics that the user allows at the terminal; none if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return frozenset()
    return frozenset(
        topic
        for topic, count in refused.items()
        if topic and _confirm(f"{count} from {_describe(topic)}: publish them there? [y/N] ")
    )


def _confirm(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _describe(topic: str) -> str:
    return f"topic '{quoted(topic)}'" if topic else "other topics"


def _parser() -> Parser:
    parser = Parser(
        prog="gizmopy redrive",
        description="Publish the dead letters of a channel to their source topics again. A dead "
        "letter is removed only after the broker has confirmed its publication. It is published "
        "only to a topic that module:Service consumes, that GIZMO_TOPIC_* or GIZMO_SUBSCRIPTION_* "
        "name, or that --to or --from-topic name; the others are counted.",
        epilog="All other flags are settings, as for gizmopy run.",
        usage="%(prog)s CHANNEL [module:Service] [flags]",
    )
    parser.add_argument("channel", metavar="CHANNEL", help="the channel that holds dead letters")
    parser.add_argument("--url", help="URL of the broker; default: GIZMO_PUBSUB_URL")
    parser.add_argument(
        "--subscription",
        default=Plan.subscription,
        help="name of the subscription that reads them; default: %(default)s",
    )
    parser.add_argument(
        "--to", default="", metavar="CHANNEL", help="publish all of them to this channel"
    )
    parser.add_argument(
        "--from-topic",
        action="append",
        default=[],
        dest="from_topics",
        metavar="NAME",
        help="also move dead letters from this topic; may be repeated",
    )
    parser.add_argument(
        "--match",
        default="",
        metavar="TEXT",
        help="move only those with TEXT in their reason or exception; not on Kafka, which "
        "cannot skip a message",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="move at most N of them")
    parser.add_argument(
        "--wait",
        type=float,
        default=Plan.wait,
        metavar="SECONDS",
        help="end after this time without another one; default: %(default)g",
    )
    parser.add_argument("--dry-run", action="store_true", help="list them, and move none")
    return parser


def _run(redrive: Redrive, *, dry_run: bool) -> int:
    """Run to the end or an interrupt, print the number of each result, and return the exit code."""
    if dry_run:
        print("\t".join(COLUMNS))
    interrupted = False
    try:
        asyncio.run(redrive.run())
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if redrive.stopped:
            print(quoted(f"{redrive.stopped}; more dead letters may be left"), file=sys.stderr)
        print(f"{redrive.redriven} redriven, {redrive.left} left, {redrive.failed} failed")
    return INTERRUPTED if interrupted else int(redrive.failed > 0)


def _open_driver(url: str) -> Driver:
    """Open a driver. Raises UsageError for a broker that exists only within its own process."""
    # In the group of the daemon, this process would take over some of its partitions.
    driver = open_driver(without_group(url))
    if driver.capabilities.process_local:
        raise UsageError(
            f"{redacted_url(url)} keeps its messages in the memory of the daemon's process, so "
            "another process cannot read its dead letters; name a broker that both can reach with "
            "--url or GIZMO_PUBSUB_URL"
        )
    return driver


def _print_row(message: Message) -> None:
    attributes = {"gizmo-dl-message-id": message.id, **message.attributes}
    print("\t".join(quoted(attributes.get(name, "")) or "-" for name in COLUMNS))


def _print_failure(message: Message, reason: str) -> None:
    identity = message.attributes.get("gizmo-dl-message-id", message.id)
    print(f"message {quoted(identity)}: {quoted(reason)}", file=sys.stderr)
