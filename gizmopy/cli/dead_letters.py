"""``gizmopy dead-letters ACTION CHANNEL``: list, show, redrive or drop dead letters.

The source topic is an attribute of a dead letter, so its sender may have chosen it. A dead letter
is published only to a topic that the user, the settings or the service names. The others are
counted by topic.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gizmopy.cli import dead_letter_text as texts
from gizmopy.cli.parser import Parser
from gizmopy.cli.target import find_service
from gizmopy.config import Settings, load
from gizmopy.config.backends.kafka import without_group
from gizmopy.config.urls import redacted_url
from gizmopy.errors import UsageError
from gizmopy.pubsub.driver import Driver
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import Plan, Redrive
from gizmopy.pubsub.registry import open_driver
from gizmopy.pubsub.subscription import collect_subscriptions
from gizmopy.pubsub.wanted import Wanted
from gizmopy.server import Service, make_service
from gizmopy.server.mounting import mounted_on
from gizmopy.server.service import settings_class
from gizmopy.untrusted.text import quoted

INTERRUPTED = 130
ACTIONS = {
    "list": "list dead letters with reason, exception, age, attempts and source",
    "show": "show dead letters with their attributes and bodies",
    "redrive": "publish dead letters to their source topics again",
    "drop": "delete dead letters",
}
_SHOWN = 10
"""How many dead letters ``show`` shows without --limit."""
_BODY_BYTES = 64 * 1024
"""How much of a body ``show`` shows without --body-bytes."""
_DONE = {"redrive": "redriven", "drop": "dropped"}


def main(argv: Sequence[str]) -> int:
    """Choose the action, and return its exit code."""
    parser = Parser(
        prog="gizmopy dead-letters", description="Look at the dead letters of a channel."
    )
    actions = parser.add_subparsers(metavar="ACTION")
    for name, text in ACTIONS.items():
        actions.add_parser(name, help=text, add_help=False).set_defaults(action=name)
    chosen, rest = parser.parse_known_args(argv)
    if "action" not in chosen:
        parser.print_help()
        return 2
    return run(chosen.action, rest, prog=f"gizmopy dead-letters {chosen.action}")


def run(action: str, argv: Sequence[str], *, prog: str) -> int:
    """Do ``action``, print a summary, and return 0, or 1 if one failed or was not allowed.

    Flags that are not of this command are settings, as for ``gizmopy run``.
    """
    parser = _parser(action, prog)
    argv, target = _split_service(argv)
    chosen, flags = parser.parse_known_args(argv)
    _check(chosen, parser)
    service = find_service(target) if target else None
    settings = load(settings_class(service) if service else Settings, flags).settings
    url = settings.kafka.with_defaults(chosen.url) if chosen.url else settings.broker_url
    plan = _plan(action, chosen)
    if plan.drop and plan.wanted.is_all and not (plan.dry_run or chosen.yes):
        which = "all" if plan.limit is None else f"{plan.limit} of the"
        question = f"delete {which} dead letters of {quoted(plan.channel)!r}? [y/N] "
        if not (_is_terminal() and _confirm(question)):
            parser.error("nothing is deleted; to delete dead letters without a filter, add --yes")
    if service:
        plan = replace(plan, from_topics=plan.from_topics | _channels(service, settings))
    report = _Report(action, plan, chosen)
    code, refused = _run(report, url, settings)
    if refused and (allowed := _ask(refused)):
        report.plan = replace(plan, from_topics=plan.from_topics | allowed)
        code, refused = _run(report, url, settings)
    if refused:
        _print_refused(refused)
    return code or int(bool(refused))


def _check(chosen: argparse.Namespace, parser: Parser) -> None:
    """End with a usage error if a number is out of its range."""
    if not chosen.wait > 0:
        parser.error(f"--wait {chosen.wait:g}: is not above 0; write a number of seconds")
    if chosen.limit is not None and chosen.limit < 1:
        parser.error(f"--limit {chosen.limit}: is below 1; write 1 or more")
    if chosen.body_bytes < 0:
        parser.error(f"--body-bytes {chosen.body_bytes}: is below 0; write 0 or more")


def _plan(action: str, chosen: argparse.Namespace) -> Plan:
    wanted = Wanted(
        match=chosen.match,
        reason=chosen.reason,
        key=chosen.key,
        text=chosen.text,
        ids=frozenset(chosen.ids),
    )
    return Plan(
        channel=chosen.channel,
        subscription=chosen.subscription,
        to=chosen.to,
        from_topics=frozenset(chosen.from_topics),
        wanted=wanted,
        limit=_SHOWN if action == "show" and chosen.limit is None else chosen.limit,
        wait=chosen.wait,
        dry_run=chosen.dry_run or action in ("list", "show"),
        drop=action == "drop",
    )


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


class _Report:
    """Print the dead letters of one action, and its results."""

    def __init__(self, action: str, plan: Plan, chosen: argparse.Namespace) -> None:
        self.plan = plan
        self._action = action
        self._json = chosen.json
        self._body_bytes = chosen.body_bytes
        self._listed = 0

    def begin(self) -> None:
        """Print the names of the columns."""
        if self.plan.dry_run and self._action != "show" and not self._json:
            print("\t".join(texts.COLUMNS))

    def letter(self, message: Message) -> None:
        """Print a dead letter."""
        self._listed += 1
        has_body = self._action == "show"
        if self._json:
            print(texts.as_json(message, body_bytes=self._body_bytes if has_body else None))
        elif has_body:
            print(texts.whole(message, body_bytes=self._body_bytes))
        else:
            print(texts.row(message))

    def failure(self, message: Message, reason: str) -> None:
        """Print a dead letter that failed."""
        print(texts.failure(message, reason), file=sys.stderr)

    def end(self, redrive: Redrive) -> None:
        """Print the number of each result; not among lines of JSON."""
        if redrive.stopped:
            print(quoted(f"{redrive.stopped}; more dead letters may be left"), file=sys.stderr)
        if done := _DONE.get(self._action):
            summary = f"{redrive.settled} {done}, {redrive.left} left, {redrive.failed} failed"
        else:
            summary = f"{self._listed} dead letters"
        print(summary, file=sys.stderr if self._json else sys.stdout)


def _run(report: _Report, url: str, settings: Settings) -> tuple[int, Mapping[str, int]]:
    """Run once; return the exit code, and the number of dead letters not allowed, by topic."""
    redrive = Redrive(
        report.plan,
        url,
        topics=settings.topic_urls,
        subscriptions=settings.subscription_urls,
        on_listed=report.letter,
        on_failed=report.failure,
        open_driver=_open_driver,
    )
    report.begin()
    is_interrupted = False
    try:
        asyncio.run(redrive.run())
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        report.end(redrive)
    return (INTERRUPTED, {}) if is_interrupted else (int(redrive.failed > 0), redrive.refused)


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


# Topics that are not allowed.


def _print_refused(refused: Mapping[str, int]) -> None:
    for topic, count in refused.items():
        print(f"{count} not moved, from {texts.topic(topic)}", file=sys.stderr)
    print(
        "neither the settings nor a service names these topics; allow one with --from-topic NAME, "
        "name the service as in gizmopy redrive CHANNEL module:Service, or publish all dead "
        "letters to one channel with --to CHANNEL",
        file=sys.stderr,
    )


def _ask(refused: Mapping[str, int]) -> frozenset[str]:
    """Return the topics that the user allows at the terminal; none if there is no terminal."""
    if not _is_terminal():
        return frozenset()
    return frozenset(
        topic
        for topic, count in refused.items()
        if topic and _confirm(f"{count} from {texts.topic(topic)}: publish them there? [y/N] ")
    )


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _confirm(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


# The arguments.

_DESCRIPTIONS = {
    "list": "List the dead letters of a channel, without their bodies. None of them moves.",
    "show": "Show dead letters with their key, attributes and body. None of them moves.",
    "redrive": "Publish the dead letters of a channel to their source topics again. A dead "
    "letter is removed only after the broker has confirmed its publication. It is published "
    "only to a topic that module:Service consumes, that GIZMO_TOPIC_* or GIZMO_SUBSCRIPTION_* "
    "name, or that --to or --from-topic name; the others are counted.",
    "drop": "Delete dead letters of a channel for good.",
}


def _parser(action: str, prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=_DESCRIPTIONS[action],
        epilog="All other flags are settings, as for gizmopy run.",
        usage="%(prog)s CHANNEL [module:Service] [flags]",
    )
    # An action has the defaults of the flags that it does not take.
    parser.set_defaults(dry_run=False, yes=False, to="", from_topics=[], body_bytes=_BODY_BYTES)
    parser.add_argument("channel", metavar="CHANNEL", help="the channel that holds dead letters")
    parser.add_argument("--url", help="URL of the broker; default: GIZMO_PUBSUB_URL")
    parser.add_argument(
        "--subscription",
        default=Plan.subscription,
        help="name of the subscription that reads them; default: %(default)s",
    )
    _add_filters(parser)
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"take at most N of them; default: {_SHOWN if action == 'show' else 'all'}",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=Plan.wait,
        metavar="SECONDS",
        help="end after this time without another one; default: %(default)g",
    )
    parser.add_argument("--json", action="store_true", help="print each as JSON, one a line")
    _OWN_FLAGS[action](parser)
    return parser


def _add_filters(parser: Parser) -> None:
    add: Callable[..., object] = parser.add_argument
    add("--reason", default="", metavar="TEXT", help="only those with TEXT in their reason")
    add("--match", default="", metavar="TEXT", help="… in their reason or exception")
    add("--text", default="", metavar="TEXT", help="… in their body or an attribute")
    add("--key", metavar="KEY", help="only those of this key")
    add(
        "--id",
        action="append",
        default=[],
        dest="ids",
        metavar="ID",
        help="only this one, by its own id or that of its message; may be repeated",
    )


def _add_show(parser: Parser) -> None:
    parser.add_argument(
        "--body-bytes",
        type=int,
        default=_BODY_BYTES,
        metavar="N",
        help="show at most N bytes of a body; default: %(default)s",
    )


def _add_redrive(parser: Parser) -> None:
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
    parser.add_argument("--dry-run", action="store_true", help="list them, and move none")


def _add_drop(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="list them, and delete none")
    parser.add_argument("--yes", action="store_true", help="delete all of them without a question")


_OWN_FLAGS: Mapping[str, Callable[[Parser], None]] = {
    "list": lambda parser: None,
    "show": _add_show,
    "redrive": _add_redrive,
    "drop": _add_drop,
}
