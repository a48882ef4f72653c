"""Messages in and out, alike on every broker: nothing is lost, and one handler serves any of them.

The listing is the table of contents: what travels (message), how it is declared (subscription) and
encoded (codecs), the way out (publisher) and in (subscriber), what a broker must do (driver), how
it is found (drivers), and what a service holds of all this (channels).
"""

from gizmopy.pubsub.channels import ChannelRow, Channels
from gizmopy.pubsub.driver import Capabilities, Driver, Receiver, Sender, Status
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.publisher import Publisher
from gizmopy.pubsub.registry import open_driver
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import (
    BatchHandler,
    Handler,
    MessageMiddleware,
    Subscription,
    collect_subscriptions,
    subscribe,
)

__all__ = [
    "BatchHandler",
    "Capabilities",
    "ChannelRow",
    "Channels",
    "DrainReport",
    "Driver",
    "Handler",
    "Message",
    "MessageMiddleware",
    "OnSettle",
    "Publisher",
    "Receiver",
    "RetryPolicy",
    "Sender",
    "Status",
    "Subscriber",
    "Subscription",
    "collect_subscriptions",
    "open_driver",
    "subscribe",
]
