"""Resolve the name of a channel to the URL of a driver and a topic; no input or output.

A channel is a name in a service's source. Settings decide its destination: either the channel has
a URL of its own, or it is a topic of the broker that ``GIZMO_PUBSUB_URL`` names. In the names of
settings a channel is written as its environment name: ``cats-of.2`` is ``CATS_OF_2``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from gizmopy.config.channel_names import channel_key
from gizmopy.config.urls import redacted_url
from gizmopy.errors import StartError


class Destination(NamedTuple):
    """A topic, and the URL of the driver that reaches it."""

    driver_url: str
    topic: str

    @property
    def redacted(self) -> str:
        """Scheme, hosts and topic, without credentials and parameters: for logs and errors."""
        return f"{redacted_url(self.driver_url)}/{self.topic}"

    @property
    def place(self) -> str:
        """The name of the topic's place: URLs that differ only in their parameters share it."""
        scheme, _, hosts = redacted_url(self.driver_url).partition("://")
        return f"{scheme}://{','.join(sorted(hosts.split(',')))}/{self.topic}"


class DestinationResolver:
    """Find the destinations of channels.

    ``topics`` and ``subscriptions`` have the URLs of single channels, by environment name:
    ``scheme://host/topic?params``. Every other channel is at ``url``, with its name as the topic. A
    topic in ``url`` itself is meant for one channel, so a second one without its own URL is an
    error.
    """

    def __init__(
        self, url: str, topics: Mapping[str, str], subscriptions: Mapping[str, str]
    ) -> None:
        self._url = url
        self._topics = topics
        self._subscriptions = subscriptions
        self._channels: dict[str, str] = {}
        """The first channel of each environment name."""
        self._default_channel = ""
        """The one channel that uses the topic in ``url``."""

    def for_publishing(self, channel: str) -> Destination:
        """Return where to publish ``channel``. Raises StartError if the settings are ambiguous."""
        return self._resolve(channel, self._topics)

    def for_consuming(self, channel: str) -> Destination:
        """Return where to consume ``channel``: its own subscription URL, else its topic."""
        return self._resolve(channel, self._subscriptions, self._topics)

    def check_name(self, channel: str) -> str:
        """Return the environment name of ``channel``.

        Raises StartError if another channel has the same one, and a setting of that name exists: it
        would move both channels.
        """
        env_name = channel_key(channel)
        other = self._channels.setdefault(env_name, channel)
        if other != channel and (env_name in self._topics or env_name in self._subscriptions):
            raise StartError(
                f"channels {other!r} and {channel!r} are both {env_name} in settings, and "
                f"GIZMO_TOPIC_{env_name} or GIZMO_SUBSCRIPTION_{env_name} is set; rename one "
                "channel"
            )
        return env_name

    def _resolve(self, channel: str, *settings: Mapping[str, str]) -> Destination:
        """Return the destination of ``channel`` by the first of ``settings`` that has a URL."""
        env_name = self.check_name(channel)
        url = next((urls[env_name] for urls in settings if env_name in urls), None)
        parts = urlsplit(self._url if url is None else url)
        topic = unquote(parts.path.strip("/"))
        if url is None and topic:
            self._claim_default_topic(channel)
        driver_url = parts._replace(path="", fragment="").geturl()
        return Destination(driver_url, topic or channel)

    def _claim_default_topic(self, channel: str) -> None:
        """Raise StartError if another channel already uses the topic in ``url``."""
        self._default_channel = self._default_channel or channel
        if channel != self._default_channel:
            raise StartError(
                f"channels {self._default_channel!r} and {channel!r} would both use "
                f"{redacted_url(self._url, with_path=True)}; remove the topic from that URL, or "
                f"give one channel its own URL with GIZMO_TOPIC_{channel_key(channel)}"
            )


def find_cycle(next_places: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a path through ``next_places`` that ends where it begins; empty if there is none."""
    finished: set[str] = set()

    def follow(place: str, path: list[str]) -> list[str]:
        if place in path:
            return [*path[path.index(place) :], place]
        if place in finished:
            return []
        for each in next_places.get(place, ()):
            if cycle := follow(each, [*path, place]):
                return cycle
        finished.add(place)
        return []

    return next((cycle for start in next_places if (cycle := follow(start, []))), [])
