"""Old path of :mod:`gizmopy.pubsub.brokers.memory`, deprecated until gizmopy 0.3."""

from gizmopy._deprecated import renamed

__getattr__ = renamed(
    __name__,
    {
        name: f"gizmopy.pubsub.brokers.memory:{name}"
        for name in ("Clock", "MemoryDriver", "MemoryReceiver", "MemorySender", "open_driver")
    },
)
