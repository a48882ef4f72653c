"""What a broker must do, and nothing more: the contract between a driver and the engine.

A driver translates: its library's records to :class:`Message`, its library's errors to
``PubSubError(transient=...)`` where they cross. It never retries what its client already retries,
never logs, and never decides what becomes of a message. All semantics (retries, order, leases, dead
letters, draining) live once, in :class:`~gizmopy.pubsub.publisher.Publisher` and
:class:`~gizmopy.pubsub.subscriber.Subscriber`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gizmopy.errors import PubSubError
from gizmopy.pubsub.message import Message

Results = Sequence[Exception | None]
"""One entry for each item of a batch, in its order: None where it is done, else why it is not."""


def results_for(batch: Sequence[Message], results: Results) -> Results:
    """Return ``results``, or an error for each where a driver has not answered for each."""
    if len(results) == len(batch):
        return results
    reason = f"the driver answered for {len(results)} of {len(batch)} messages"
    return [PubSubError(reason, transient=False)] * len(batch)


Revoke = Callable[[Collection[Hashable], float], Awaitable[None]]
"""``await revoke(partitions, seconds)``: let go of partitions that the broker takes away.

The engine drops what it has not started of them, finishes what it has or cancels it when the
seconds are over, and acks for the last time; when it returns, the driver commits. It never raises.
What was received before belongs to an assignment that is over: it is never acked after that.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Say what a broker can do; the engine makes up for the rest."""

    ordering: bool
    """Messages of one key (or partition) arrive in the order they were published."""
    can_nack: bool
    """A message can be given back to be delivered again."""
    native_delay: bool
    """``nack`` honours its delay; where False, the engine holds the message that long first."""
    lease: float | None
    """Seconds after which an unsettled message is delivered again; None where it never is."""
    lease_cap: float | None = None
    """Seconds from its receipt that a message can be kept at most; None: no end."""
    positions: bool
    """The broker keeps a position for each partition instead of settling message by message."""
    delivery_count: bool
    """``Message.delivery`` is true; where False it is always 1."""
    process_local: bool
    """The messages live in this process, and are gone with it."""
    batch_messages: int
    """How many messages one call of send, ack, nack or extend may hold at most."""
    batch_bytes: int | None
    """How many bytes one call of send may hold at most; None: no limit."""
    message_bytes: int | None
    """How many bytes a message may have: body, key and attributes; None: no limit."""
    ordered_batches: bool = False
    """Where an item of a send fails, so do the later items of its key in that batch."""
    client_retries: bool = False
    """``send`` tries transient failures again by itself, as long as that makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Say how a receiver is doing, from what it knows without asking the broker."""

    backlog: int | None = None
    """Messages not yet received, those that wait for their redelivery included; None: unknown."""
    lag: Mapping[str, int] = field(default_factory=dict)
    """For each partition, by its name in metrics, the messages that this receiver is behind."""
    assigned: int | None = None
    """How many partitions this receiver has; None where the broker has none."""
    problem: str = ""
    """Why nothing is received for now, where that may pass by itself and no receive tells of it."""
    stalled: str = ""
    """Why the receiver makes no progress and never will (its client died, it was given nothing
    to consume though there is something); the engine then makes a new one. Empty while all is well.
    """


class Sender(Protocol):
    """Publish to one topic."""

    async def connect(self) -> None:
        """Get ready to send. Called once, before the first send, and again if it raised.

        Raises TopicNotFound where the topic does not exist, PubSubError else.
        """

    async def send(self, batch: Sequence[Message]) -> Results:
        """Send messages, in order, and return for each None once the broker has confirmed it.

        ``batch`` is within the limits that the capabilities state, and holds at most one message
        for each key unless ``ordered_batches`` is declared. A failure of the call as a whole may be
        raised as a PubSubError instead: it then counts for every item. One call at a time. It may
        be cancelled: whether the messages arrive is then open, and the next send works. Raises
        UsageError after aclose.
        """

    async def aclose(self) -> None:
        """Flush and close. May be called twice, and without connect."""


class Receiver(Protocol):
    """Consume one subscription to one topic.

    ``receive`` is called by one task at a time. The other methods may be called while it is
    pending, and each while another of them is.
    """

    async def connect(self, revoke: Revoke) -> None:
        """Subscribe. From here on the subscription collects what is published.

        Await ``revoke`` when the broker takes partitions away, before committing for them. Raises
        TopicNotFound where the topic or queue does not exist, and a transient PubSubError where the
        broker cannot be reached: connect is then called again.
        """

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return at most ``limit`` messages, as soon as there are any, or none after ``wait`` s.

        It is never cancelled before aclose: what a broker has handed out must not be dropped on
        the way. ``aclose`` ends a pending call, which returns nothing. A transient PubSubError is
        retried by the engine with backoff; any other error ends the subscriber.
        """

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Settle messages for good. Acking twice is refused or done again, but harms nothing.

        Where the broker keeps ``positions``, each message stands for all of its partition up to
        it: they are handled, and the batch holds at most one for each partition.

        An item whose lease is over gets an error that is not transient. Transient errors are
        tried again by the engine, for the items that had them.
        """

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Give messages back, to be delivered again after ``delay`` seconds; results as for ack."""

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Make the leases of messages last ``seconds`` from now; results as for ack."""

    def status(self) -> Status:
        """Say how the receiver is doing; cheap, no input or output.

        It is asked at any time, before connect and after aclose too.
        """

    async def aclose(self) -> None:
        """Give back at once what is held, end a pending receive, and close. May be called twice."""


class Driver(Protocol):
    """Be what a URL opens: one connection, or one way to make connections, to a broker."""

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do."""

    def sender(self, topic: str) -> Sender:
        """Return a new sender; it connects by itself, in ``connect``."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        """Return a new receiver; where ``ordered``, it keeps the order of each key's messages.

        Receivers of one subscription share its messages; each subscription gets all.
        """

    async def aclose(self) -> None:
        """Close what senders and receivers share, after they are closed. May be called twice."""
