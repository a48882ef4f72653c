"""Messages in and out: the same code on every broker.

A reader's way through the package: the message that travels (``message``), how a subscription is
declared (``subscription``, ``handlers``) and a body encoded (``codecs``, ``cloudevents``),
publishing (``publisher``) and consuming (``subscriber``), the contract of a broker's driver
(``driver``), how a driver is found (``registry``), and the channels that a service holds
(``channels``). ``engine/`` has the parts of publisher and subscriber, ``middleware/`` wraps
handlers, ``brokers/`` has a module for each broker.

Names whose modules need a library that is optional, or that few programs use, are imported when
they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gizmopy.pubsub.addresses import Address
from gizmopy.pubsub.channels import ChannelRow, Channels
from gizmopy.pubsub.driver import (
    Capabilities,
    Driver,
    Limits,
    Measured,
    Receiver,
    Sender,
    Status,
)
from gizmopy.pubsub.engine.outcome import DrainReport, OnSettle
from gizmopy.pubsub.handlers import BatchHandler, Handler, MessageMiddleware
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.publisher import Publisher
from gizmopy.pubsub.registry import open_driver, provision
from gizmopy.pubsub.retry import RetryPolicy
from gizmopy.pubsub.subscriber import Subscriber
from gizmopy.pubsub.subscription import Subscription, collect_subscriptions, subscribe

if TYPE_CHECKING:
    from gizmopy.pubsub.cloudevents import CloudEvent as CloudEvent
    from gizmopy.pubsub.middleware.stores.memory import MemoryStore as MemoryStore
    from gizmopy.pubsub.middleware.stores.redis import RedisStore as RedisStore

_LAZY = {
    "CloudEvent": "cloudevents",
    "MemoryStore": "middleware.stores.memory",
    "RedisStore": "middleware.stores.redis",
}

__all__ = [
    "Address",
    "BatchHandler",
    "Capabilities",
    "ChannelRow",
    "Channels",
    "CloudEvent",
    "DrainReport",
    "Driver",
    "Handler",
    "Limits",
    "Measured",
    "MemoryStore",
    "Message",
    "MessageMiddleware",
    "OnSettle",
    "Publisher",
    "Receiver",
    "RedisStore",
    "RetryPolicy",
    "Sender",
    "Status",
    "Subscriber",
    "Subscription",
    "collect_subscriptions",
    "open_driver",
    "provision",
    "subscribe",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value  # later uses do not call __getattr__
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
