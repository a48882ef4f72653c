"""The resolver: from the name of a channel to the URL of a driver and a topic."""

from __future__ import annotations

import pytest

from gizmopy.errors import StartError
from gizmopy.pubsub.destinations import Destination, DestinationResolver, find_cycle


@pytest.mark.parametrize(
    ("channel", "destination"),
    [
        ("cats-of.2", ("memory://host?lease=5", "other")),
        ("dogs", ("memory://host?lease=5", "dogs")),
        ("birds", ("memory://host", "a/b c")),
        ("fish", ("memory://default?x=1", "fish")),
    ],
)
def test_a_url_has_the_driver_and_the_topic(channel: str, destination: tuple[str, str]) -> None:
    """The path is the topic, else the channel's name; the rest, with parameters, is the driver."""
    topics = {
        "CATS_OF_2": "memory://host/other?lease=5",
        "DOGS": "memory://host?lease=5",
        "BIRDS": "memory://host/a/b%20c#fragment",
    }
    resolver = DestinationResolver("memory://default?x=1", topics, {})
    assert resolver.for_publishing(channel) == destination
    assert resolver.for_consuming(channel) == destination


def test_a_subscription_has_its_own_url_or_that_of_its_topic() -> None:
    """The subscription's URL wins for consuming and does not change where to publish."""
    resolver = DestinationResolver(
        "memory://", {"A": "memory://t/a", "B": "memory://t/b"}, {"B": "memory://s/queue"}
    )
    assert resolver.for_consuming("a") == ("memory://t", "a")
    assert resolver.for_consuming("b") == ("memory://s", "queue")
    assert resolver.for_publishing("b") == ("memory://t", "b")


def test_the_topic_in_the_default_url_is_for_one_channel() -> None:
    """The first channel uses it, as often as it likes; a second channel is an error."""
    resolver = DestinationResolver("memory://host/topic", {"OWN": "memory://x/own"}, {})
    assert resolver.for_publishing("cats").topic == "topic"
    assert resolver.for_consuming("cats").topic == "topic"
    assert resolver.for_publishing("own").topic == "own"
    with pytest.raises(StartError, match=r"'cats' and 'dogs' .*memory://host/topic.*TOPIC_DOGS"):
        resolver.for_publishing("dogs")


def test_two_channels_with_one_environment_name_are_an_error_if_it_is_set() -> None:
    """Without a setting of that name, nothing confuses the two."""
    DestinationResolver("memory://", {}, {}).check_name("a-b")
    resolver = DestinationResolver("memory://", {}, {})
    assert [resolver.check_name("a-b"), resolver.check_name("a.b")] == ["A_B", "A_B"]
    setting = {"A_B": "memory://x"}
    for resolver in (
        DestinationResolver("memory://", setting, {}),
        DestinationResolver("memory://", {}, setting),
    ):
        resolver.check_name("a-b")
        with pytest.raises(StartError, match=r"'a-b' and 'a\.b' are both A_B"):
            resolver.check_name("a.b")


def test_a_destination_is_shown_without_its_credentials() -> None:
    """Logs and errors have scheme, hosts and topic."""
    destination = Destination("kafka://me:secret@host:9092?group=g", "cats")
    assert destination.redacted == "kafka://host:9092/cats"


@pytest.mark.parametrize(
    ("places", "cycle"),
    [
        ({"a": ["b"], "b": ["c"]}, []),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"x": ["a"], "a": ["c", "b"], "b": ["d", "a"]}, ["a", "b", "a"]),
        ({"a": ["b", "b"], "c": ["b"]}, []),
    ],
)
def test_a_cycle_of_places_is_found(places: dict[str, list[str]], cycle: list[str]) -> None:
    """The path ends where it begins."""
    assert find_cycle(places) == cycle


def test_the_place_of_a_topic_is_without_login_parameters_and_the_order_of_hosts() -> None:
    """Two URLs of one place have one name."""
    one = Destination("kafka://me:secret@b:1,a:2?group=g", "cats")
    other = Destination("kafka://a:2,b:1", "cats")
    assert one.place == other.place == "kafka://a:2,b:1/cats"
