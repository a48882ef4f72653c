"""Resolve the name of a channel to the URL of a driver and a topic; no input or output.

A channel is a name in a service's source. Settings decide its destination: either the channel has
a URL of its own, or it is a topic of the broker that ``GIZMO_PUBSUB_URL`` names. In the names of
settings a channel is written as its environment name: ``cats-of.2`` is ``CATS_OF_2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gizmopy.config.channel_names import channel_key
from gizmopy.config.urls import redacted_url
from gizmopy.errors import GizmoError, StartError
from gizmopy.pubsub import registry
from gizmopy.pubsub.addresses import Address, Purpose, Resolve, Scope, by_path


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
    ``scheme://host/topic?params``. Every other channel is at ``url``. ``resolver_of`` returns the
    rule of a URL's scheme, by default the one that the scheme registered. If ``url`` has a topic
    for one channel, a second one without its own URL is an error.
    """

    def __init__(
        self,
        url: str,
        topics: Mapping[str, str],
        subscriptions: Mapping[str, str],
        resolver_of: Callable[[str], Resolve] = registry.resolver_of,
    ) -> None:
        self._url = url
        self._topics = topics
        self._subscriptions = subscriptions
        self._resolver_of = resolver_of
        self._by_path = resolver_of(url) is by_path
        self._channels: dict[str, str] = {}
        """The first channel of each environment name."""
        self._claims: dict[tuple[str, ...], str] = {}
        """The one channel that uses a place of ``url``."""

    def for_publishing(self, channel: str) -> Destination:
        """Return where to publish ``channel``. Raises StartError if the settings are ambiguous."""
        return self._claimed(channel, "", "publish")

    def for_consuming(self, channel: str, subscription: str = "") -> Destination:
        """Return where to consume ``channel``: its own subscription URL, else its topic."""
        return self._claimed(channel, subscription, "consume")

    def subscription_of(self, channel: str, subscription: str) -> str:
        """Return the name that the broker has for ``subscription``."""
        return self._resolve(channel, subscription, "consume").subscription or subscription

    def source_of(self, channel: str) -> Destination | None:
        """Return where others publish the messages that are consumed from ``channel``.

        None if that is not known: the channel has a subscription of its own, or no topic.
        """
        if channel_key(channel) in self._subscriptions:
            return None
        try:
            address = self._resolve(channel, "", "publish")
        except StartError:
            return None
        return Destination(address.driver_url, address.topic)

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

    def _claimed(self, channel: str, subscription: str, purpose: Purpose) -> Destination:
        """Return the destination of a channel. Raises StartError if another channel has it."""
        address = self._resolve(channel, subscription, purpose)
        destination = Destination(address.driver_url, address.topic)
        if self._own_url(channel, purpose) is None:
            self._claim(channel, destination if self._by_path else (purpose, *address))
        return destination

    def _claim(self, channel: str, place: tuple[str, ...]) -> None:
        """Raise StartError if the URL of the daemon gives ``place`` to another channel, too."""
        other = self._claims.setdefault(place, channel)
        if channel != other:
            raise StartError(
                f"channels {other!r} and {channel!r} would both use "
                f"{redacted_url(self._url, with_path=True)}; remove the topic from that URL, or "
                f"give one channel its own URL with GIZMO_TOPIC_{channel_key(channel)}"
            )

    def _own_url(self, channel: str, purpose: Purpose) -> str | None:
        """Return the URL that the settings give to one channel, or None."""
        env_name = self.check_name(channel)
        if purpose == "consume" and env_name in self._subscriptions:
            return self._subscriptions[env_name]
        return self._topics.get(env_name)

    def _resolve(self, channel: str, subscription: str, purpose: Purpose) -> Address:
        """Return the address of ``channel`` by the rule of its URL's scheme."""
        own = self._own_url(channel, purpose)
        scope: Scope = "daemon" if own is None else "channel"
        url = self._url if own is None else own
        try:
            return self._resolver_of(url)(url, channel, subscription, purpose, scope)
        except (GizmoError, ValueError) as error:
            shown = redacted_url(url, with_path=True)
            reason = f"cannot be {'published to' if purpose == 'publish' else 'consumed from'}"
            raise StartError(f"channel {channel!r} {reason} {shown}: {error}") from error


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
