"""Middleware for message handlers: each function takes a handler and returns one.

Use them in this order, outermost first: ``correlation``, ``idempotent``, ``circuit_breaker``,
``throttle``, ``timeout``. Then a duplicate does not count for the throttle, and waiting for the
throttle does not count for the timeout.

A middleware with state (a circuit, a rate) has one state for each handler that it wraps: two
handlers, or two services in one process, do not share it.
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
