"""Decide which topics dead letters may be published to.

A dead letter names its source topic in an attribute, and the sender chooses the attributes: a
client that may publish dead letters could make a redrive publish anything anywhere. So a redrive
publishes to a topic only if the settings, the service or the person at the terminal name it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from urllib.parse import unquote, urlsplit

from gizmopy.config.channel_names import channel_key

_MOST_TOPICS = 100
"""The number of topics that are counted by name."""
_LONGEST = 255
"""The length of a topic that is counted by name; brokers allow no more."""


class Destinations:
    """Know the topics that may be published to, and count the dead letters from others.

    ``topics`` and ``subscriptions`` are the URLs of single channels by environment form, ``url`` is
    that of all others. ``named`` are topics that are allowed besides. If all dead letters go ``to``
    one channel, the topics that they came from do not matter.
    """

    def __init__(
        self,
        url: str,
        topics: Mapping[str, str],
        subscriptions: Mapping[str, str],
        *,
        named: Collection[str],
        to: str,
    ) -> None:
        urls = (*topics.values(), *subscriptions.values())
        homes = {channel_key(topic): url for url in urls if (topic := topic_of(url))}
        self.places = topics if to else {**topics, **homes}
        """The URLs to publish to, by the environment form of a channel or a topic."""
        self.refused: Counter[str] = Counter()
        """How many dead letters came from each topic that is not allowed; "" for all others."""
        self._named = (frozenset(named) | {topic_of(url)}) - {""}
        self._any = bool(to)

    @property
    def is_empty(self) -> bool:
        """Whether no topic is allowed."""
        return not (self._any or self._named or self.places)

    def allow(self, topic: str) -> bool:
        """Return whether a dead letter from ``topic`` may go back there, and count it if not."""
        if self._any:
            return True
        if len(topic) <= _LONGEST:
            if topic in self._named or channel_key(topic) in self.places:
                return True
            if topic in self.refused or len(self.refused) < _MOST_TOPICS:
                self.refused[topic] += 1
                return False
        self.refused[""] += 1
        return False


def topic_of(url: str) -> str:
    """Return the topic that a URL names; empty if it names none."""
    return unquote(urlsplit(url).path.strip("/"))
