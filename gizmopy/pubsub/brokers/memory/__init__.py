"""A broker in this process, for development, tests and queues inside a daemon: ``memory://``.

*Delivery*: at least once. A message is leased for 30 s (``memory://?lease=5`` for 5 s), then
delivered again; a later ack is refused. Leases can be extended without end, or until ``?cap=60``
seconds after the receipt. A subscription exists from its first receiver on; messages to a topic
without subscriptions are dropped. With ``?fan_out=false`` a topic is one queue, as on SQS: its
subscriptions share the messages.

*Order*: a receiver that is ordered gets the next message of a key when the one before is settled; a
message that is given back returns to its place. Each key is its own partition.

*Nack*: with delay. *Raw*: the number of the message in its subscription.

Each driver that is opened is a separate broker. Its messages are gone when it closes.
"""

from gizmopy.pubsub.brokers.memory.driver import (
    MemoryDriver,
    MemoryReceiver,
    MemorySender,
    open_driver,
)
from gizmopy.pubsub.brokers.memory.subscription import Clock, Handle

__all__ = ["Clock", "Handle", "MemoryDriver", "MemoryReceiver", "MemorySender", "open_driver"]
