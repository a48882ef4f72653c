"""Decide which topics dead letters may be published to.

A dead letter names its source topic in an attribute, and the sender chooses the attributes: a
client that may publish dead letters could make a redrive publish any message to any topic. So a
redrive publishes to a topic only if the settings, the service or the operator name it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from gizmopy.config.channel_names import channel_key
from gizmopy.config.urls import decoded_topic

_MAX_COUNTED_TOPICS = 100
"""How many topics are counted by name."""
_MAX_TOPIC_LENGTH = 255
"""The longest topic that is counted by name; brokers allow no longer ones."""


class AllowedTopics:
    """Know the topics that may be published to, and count the dead letters of other topics.

    ``topics`` and ``subscriptions`` are the URLs of single channels by their name in settings,
    ``url`` is the URL of all other channels. The topics ``also`` are allowed besides. If all dead
    letters go ``to`` one channel, their source topics do not matter.
    """

    def __init__(
        self,
        url: str,
        topics: Mapping[str, str],
        subscriptions: Mapping[str, str],
        *,
        also: Collection[str],
        to: str,
    ) -> None:
        urls = (*topics.values(), *subscriptions.values())
        by_topic = {channel_key(topic): url for url in urls if (topic := topic_of(url))}
        self.urls = topics if to else {**topics, **by_topic}
        """The URLs to publish to, by the name in settings of a channel or a topic."""
        self.refused: Counter[str] = Counter()
        """How many dead letters of each topic were refused; "" counts the topics without a name."""
        self._allowed = (frozenset(also) | {topic_of(url)}) - {""}
        self._any = bool(to)

    @property
    def is_empty(self) -> bool:
        """Whether no topic is allowed."""
        return not (self._any or self._allowed or self.urls)

    def allow(self, topic: str) -> bool:
        """Return whether a dead letter from ``topic`` may go back there, and count it if not."""
        if self._any:
            return True
        # The sender chooses the topic in a dead letter, so neither its length nor the number of
        # different ones is bounded by the broker: the counter would take any amount of memory.
        if len(topic) <= _MAX_TOPIC_LENGTH:
            if topic in self._allowed or channel_key(topic) in self.urls:
                return True
            if topic in self.refused or len(self.refused) < _MAX_COUNTED_TOPICS:
                self.refused[topic] += 1
                return False
        self.refused[""] += 1
        return False


def topic_of(url: str) -> str:
    """Return the topic that a URL names; empty if it names none."""
    return decoded_topic(urlsplit(url).path)
