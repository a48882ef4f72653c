"""Say what the driver of a channel opens: the rule for URLs, which each scheme may replace.

The part of a URL behind ``//`` names the place that channels share, such as a cluster or a region.
The path names one topic, queue or subscription. All channels of one place share one driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from gizmopy.config.urls import decoded_topic

Purpose = Literal["publish", "consume"]
Scope = Literal["daemon", "channel"]
"""Whose URL it is: that of the daemon, for all its channels, or that of one channel."""


class Address(NamedTuple):
    """What a driver opens for a channel."""

    driver_url: str
    """The URL of the driver. Channels whose addresses have the same one share the driver."""
    topic: str
    """The topic, for ``Driver.sender`` and ``Driver.receiver``; its form is the driver's own."""
    subscription: str = ""
    """The subscription, for ``Driver.receiver``; empty for publishing."""


Resolve = Callable[[str, str, str, Purpose, Scope], Address]
"""``resolve(url, channel, subscription, purpose, scope)`` returns the address of a channel.

It is a pure function: it does no input or output, and returns the same for the same arguments.
``subscription`` is the name in the service, and empty for publishing. A scheme registers it in the
entry-point group ``gizmopy.pubsub.resolve``. Raises UsageError, with the remedy, if the URL cannot
be used in this way.
"""


def by_path(url: str, channel: str, subscription: str, purpose: Purpose, scope: Scope) -> Address:
    """Return the address by the default rule: the path is the topic, else the channel's name."""
    parts = urlsplit(url)
    topic = decoded_topic(parts.path)
    return Address(parts._replace(path="", fragment="").geturl(), topic or channel, subscription)
