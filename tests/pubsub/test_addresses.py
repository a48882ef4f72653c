"""A scheme says what its URLs mean: the six rows of the table in the design need no other rule."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from gizmopy.errors import StartError, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels, Message, collect_subscriptions, registry, subscribe
from gizmopy.pubsub.addresses import Address, Purpose, Resolve, Scope, by_path
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.destinations import DestinationResolver
from gizmopy.pubsub.driver import Receiver
from tests.pubsub.support import no_wait


def aws(url: str, channel: str, subscription: str, purpose: Purpose, scope: Scope) -> Address:
    """Resolve aws://, sns:// and sqs:// to one driver for each region."""
    parts = urlsplit(url)
    region = f"aws://{parts.netloc}?{parts.query}".rstrip("?")
    path = unquote(parts.path.removeprefix("/"))
    if path.startswith("https://sqs."):
        return Address(region, f"queue {path}", subscription)
    if path.startswith("arn:aws:sns"):
        path = path.rpartition(":")[2]
    fifo = ".fifo" if "fifo=true" in parts.query and scope == "daemon" else ""
    if parts.scheme == "sqs":
        return Address(region, f"queue {path or channel}{fifo}", subscription)
    if purpose == "publish":
        return Address(region, f"topic {path or channel}{fifo}")
    if parts.scheme == "sns":
        raise UsageError("a topic of SNS cannot be consumed; name its queue with sqs://")
    return Address(region, f"queue {subscription}-{channel}{fifo}", subscription)


def gcp(url: str, channel: str, subscription: str, purpose: Purpose, scope: Scope) -> Address:
    """Resolve gcp://project/x: a topic to publish, an existing subscription to consume."""
    parts = urlsplit(url)
    project, path = f"gcp://{parts.netloc}", parts.path.strip("/")
    if purpose == "publish":
        return Address(project, path or channel)
    return Address(project, channel, path or f"{subscription}-{channel}")


def web(url: str, channel: str, subscription: str, purpose: Purpose, scope: Scope) -> Address:
    """Resolve https://host/base: POST to /base/channel."""
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{channel}" if scope == "daemon" else parts.path
    return Address(f"https://{parts.netloc}", path)


def push(url: str, channel: str, subscription: str, purpose: Purpose, scope: Scope) -> Address:
    """Resolve push:/path, which has no host: the daemon's own port."""
    if purpose == "publish":
        raise UsageError("push: receives; set the channel's GIZMO_TOPIC to publish")
    parts = urlsplit(url)
    return Address("push:", f"{parts.path}?{parts.query}".rstrip("?"), subscription)


RULES: dict[str, Resolve] = {
    "aws": aws,
    "sns": aws,
    "sqs": aws,
    "gcp": gcp,
    "https": web,
    "push": push,
}


def resolver_of(url: str) -> Resolve:
    """Return the rule of a scheme."""
    return RULES.get(urlsplit(url).scheme, by_path)


def resolver(
    url: str, topics: dict[str, str] | None = None, subscriptions: dict[str, str] | None = None
) -> DestinationResolver:
    """Return a resolver with these settings."""
    return DestinationResolver(url, topics or {}, subscriptions or {}, resolver_of)


@pytest.mark.parametrize(
    ("url", "topic", "queue", "subscription"),
    [
        ("memory://", "cats", "cats", "svc"),
        ("kafka://a:1,b:2?group=g", "cats", "cats", "svc"),
        ("aws://eu", "topic cats", "queue svc-cats", "svc"),
        ("aws://eu?fifo=true", "topic cats.fifo", "queue svc-cats.fifo", "svc"),
        ("sqs://eu", "queue cats", "queue cats", "svc"),
        ("gcp://project", "cats", "cats", "svc-cats"),
    ],
)
def test_the_url_of_a_daemon_names_the_place_of_its_channels(
    url: str, topic: str, queue: str, subscription: str
) -> None:
    """The channel and the service give the names there, by the rule of the scheme."""
    found = resolver(url)
    assert found.for_publishing("cats").topic == topic
    assert found.for_consuming("cats", "svc").topic == queue
    assert found.subscription_of("cats", "svc") == subscription
    assert found.for_publishing("dogs").driver_url == found.for_publishing("cats").driver_url


def test_the_url_of_a_channel_names_one_topic_queue_or_subscription() -> None:
    """The path is a name, an ARN or the URL of a queue, as the scheme likes."""
    arn = "sns:///arn:aws:sns:eu:1:cats"
    found = resolver(
        "memory://",
        {"CATS": arn, "DOGS": "sns://eu/hounds", "OWLS": "https://host/owls"},
        {
            "CATS": "sqs:///https://sqs.eu.amazonaws.com/1/orders",
            "DOGS": "gcp://project/existing",
            "OWLS": "push:/hooks/owls?format=gcp",
        },
    )
    assert found.for_publishing("cats") == ("aws://", "topic cats")
    assert found.for_publishing("dogs") == ("aws://eu", "topic hounds")
    assert found.for_publishing("owls") == ("https://host", "/owls")
    queue = "queue https://sqs.eu.amazonaws.com/1/orders"
    assert found.for_consuming("cats", "svc") == ("aws://", queue)
    assert found.for_consuming("dogs", "svc") == ("gcp://project", "dogs")
    assert found.subscription_of("dogs", "svc") == "existing"
    assert found.for_consuming("owls", "svc") == ("push:", "/hooks/owls?format=gcp")


def test_the_path_of_a_daemons_url_may_be_a_base() -> None:
    """Channels do not share an address there, so any number of them may use the URL."""
    found = resolver("https://host/base")
    assert [found.for_publishing(name).topic for name in ("cats", "dogs")] == [
        "/base/cats",
        "/base/dogs",
    ]


@pytest.mark.parametrize("url", ["kafka://h/topic", "sqs://eu/name", "gcp://project/x"])
def test_two_channels_do_not_share_the_topic_in_the_url_of_the_daemon(url: str) -> None:
    """The second one is refused, with the URL and the remedy."""
    found = resolver(url)
    found.for_publishing("cats")
    found.for_consuming("cats", "svc")
    with pytest.raises(StartError, match="'cats' and 'dogs' would both use"):
        found.for_publishing("dogs")


def test_a_url_that_cannot_be_used_so_is_refused_without_its_login() -> None:
    """The error names the channel, the URL and the rule's reason."""
    found = resolver("memory://", {"CATS": "push:/x"}, {"CATS": "sns://me:secret@eu/cats"})
    with pytest.raises(StartError, match=r"channel 'cats' cannot be published to .*GIZMO_TOPIC"):
        found.for_publishing("cats")
    with pytest.raises(StartError, match=r"'cats' cannot be consumed from sns://eu/cats.*sqs://"):
        found.for_consuming("cats", "svc")


class Recorder(MemoryDriver):
    """A driver that records what it is asked for."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.asked: list[tuple[str, ...]] = []

    def sender(self, topic: str) -> Any:
        self.asked.append(("publish", topic))
        return super().sender(topic)


class NamedRecorder(Recorder):
    """A driver that wants to know whether a name is derived."""

    def receiver(  # type: ignore[override]  # memory does not want to know
        self, topic: str, subscription: str, *, ordered: bool, derived: bool = False
    ) -> Receiver:
        self.asked.append(("consume", topic, subscription, "derived" if derived else "given"))
        return super().receiver(topic, subscription, ordered=ordered)


class Cats:
    @subscribe("cats")
    async def on_cat(self, message: Message) -> None: ...

    @subscribe("cats", subscription="billing")
    async def bill(self, message: Message) -> None: ...

    @subscribe("dogs", dead_letter="dead")
    async def on_dog(self, message: Message) -> None: ...


def third_party(monkeypatch: pytest.MonkeyPatch, rules: dict[str, Resolve]) -> None:
    """Register rules in the group of entry points."""
    names = {scheme: EntryPoint(scheme, scheme, registry.RESOLVE_GROUP) for scheme in rules}

    def entry_points(*, group: str) -> Sequence[EntryPoint]:
        return list(names.values()) if group == registry.RESOLVE_GROUP else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_load", lambda scheme, _: rules[scheme])


async def test_all_channels_of_one_place_share_one_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheme may differ, and the driver knows whether a name was given."""
    third_party(monkeypatch, RULES)
    drivers: list[NamedRecorder] = []

    def open_driver(url: str) -> NamedRecorder:
        drivers.append(NamedRecorder(url))
        return drivers[-1]

    async with Channels(
        "aws://eu",
        service="svc",
        topics={"OWLS": "sns://eu/owls"},
        subscriptions={"DOGS": "sqs://eu/kennel"},
        metrics=Metrics(),
        sleep=no_wait,
        open_driver=open_driver,
    ) as channels:
        await channels.start(collect_subscriptions(Cats(), "svc"))
        await channels.publish("owls", b"x")
        assert [(row.url, row.subscription) for row in channels.describe()] == [
            ("aws://eu/queue svc-cats", "svc"),
            ("aws://eu/queue billing-cats", "billing"),
            ("aws://eu/queue kennel", "svc"),
        ]
    (driver,) = drivers
    assert driver.url == "aws://eu"
    assert driver.asked == [
        ("publish", "topic dead"),
        ("consume", "queue svc-cats", "svc", "derived"),
        ("consume", "queue billing-cats", "billing", "given"),
        ("consume", "queue kennel", "svc", "derived"),
        ("publish", "topic owls"),
    ]


class Cycle:
    @subscribe("a", dead_letter="b")
    async def on_a(self, message: Message) -> None: ...

    @subscribe("b", dead_letter="a")
    async def on_b(self, message: Message) -> None: ...


async def test_dead_letters_that_come_back_through_a_topic_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue that is consumed has another name than the topic that feeds it."""
    third_party(monkeypatch, RULES)
    options: Any = {"service": "svc", "metrics": Metrics(), "open_driver": Recorder}
    async with Channels("aws://eu", **options) as channels:
        with pytest.raises(StartError, match="cycle"):
            await channels.start(collect_subscriptions(Cycle(), "svc"))
    async with Channels("aws://eu", subscriptions={"A": "sqs://eu/a"}, **options) as channels:
        await channels.start(collect_subscriptions(Cycle(), "svc"))


def test_a_rule_is_registered_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme without one has the default rule, as every driver had before."""
    third_party(monkeypatch, {"nats": gcp})
    assert registry.resolver_of("nats://host") is gcp
    assert registry.resolver_of("memory://") is by_path
    assert registry.resolver_of("kafka://host") is by_path
    assert registry.resolver_of("unknown://host") is by_path
