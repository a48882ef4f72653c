"""Old path of :mod:`gizmopy.pubsub.brokers.memory`, deprecated until gizmopy 0.3."""

from gizmopy._deprecated import renamed

__getattr__ = renamed(
    __name__,
    {
        "Clock": "gizmopy.pubsub.brokers.memory:Clock",
        "Handle": "gizmopy.pubsub.brokers.memory:Handle",
        "MemoryDriver": "gizmopy.pubsub.brokers.memory:MemoryDriver",
        "MemoryReceiver": "gizmopy.pubsub.brokers.memory:MemoryReceiver",
        "MemorySender": "gizmopy.pubsub.brokers.memory:MemorySender",
        "open_driver": "gizmopy.pubsub.brokers.memory:open_driver",
    },
)
