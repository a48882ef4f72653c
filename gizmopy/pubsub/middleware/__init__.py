"""Functions around a message's handler: each takes a handler and returns one, a file each.

Together they stand in this order, outermost first: ``correlation``, ``idempotent``,
``circuit_breaker``, ``throttle``, ``timeout``; so that a duplicate takes no turn of the throttle,
and waiting for one takes no time of the timeout.

A middleware that keeps something in mind (a circuit, a rate) keeps it for each handler that it
wraps: two handlers, or two services in one process, do not share it.
"""

from gizmopy.pubsub.middleware.circuit_breaker import circuit_breaker
from gizmopy.pubsub.middleware.correlation import correlation
from gizmopy.pubsub.middleware.idempotency import Begun, State, Store, idempotent
from gizmopy.pubsub.middleware.stores.memory import MemoryStore
from gizmopy.pubsub.middleware.throttle import throttle
from gizmopy.pubsub.middleware.timeout import timeout

__all__ = [
    "Begun",
    "MemoryStore",
    "State",
    "Store",
    "circuit_breaker",
    "correlation",
    "idempotent",
    "throttle",
    "timeout",
]
