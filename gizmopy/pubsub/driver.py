"""The contract between the driver of a broker and the engine.

A driver translates: records of its library to :class:`Message`, errors of its library to
``PubSubError(transient=...)``. It adds no retries to those of its client, never logs, and never
decides about a message. All semantics (retries, order, leases, dead letters, draining) are
implemented once, in :class:`~gizmopy.pubsub.publisher.Publisher` and
:class:`~gizmopy.pubsub.subscriber.Subscriber`.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Literal, NamedTuple, Protocol, cast

from gizmopy.errors import PubSubError
from gizmopy.pubsub.event_binding import PLAIN, EventBinding
from gizmopy.pubsub.message import Message

Results = Sequence[Exception | None]
"""The result for each item of a batch, in its order: None for success, else the error."""


def results_for(batch: Sequence[Message], results: Results) -> Results:
    """Return ``results``, or an error for each item if the driver returned too few or too many."""
    if len(results) == len(batch):
        return results
    reason = f"the driver returned {len(results)} results for {len(batch)} messages"
    return [PubSubError(reason, transient=False)] * len(batch)


Revoke = Callable[[Collection[Hashable], float], Awaitable[None]]
"""``await revoke(partitions, seconds)``: give up partitions that the broker takes away.

The engine drops their messages that no handler has, lets handlers finish, cancels them when the
seconds are over, and acks for the last time. When it returns, the driver commits. It never raises.
The messages received before belong to an assignment that is over: they are never acked after that.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Declare what a broker can do; the engine does the rest itself."""

    ordering: bool
    """Messages of one key (or partition) arrive in the order they were published."""
    can_nack: bool
    """A message can be given back to be delivered again."""
    native_delay: bool
    """``nack`` applies its delay; if False, the engine holds the message that long first."""
    lease: float | None
    """Seconds after which an unsettled message is delivered again; None if it never is."""
    lease_cap: float | None = None
    """Seconds from its receipt for which a message can be kept; None: no limit."""
    silence: float | None = None
    """Seconds without a sign of life, such as a heartbeat, after which the broker delivers the
    messages of this process to others; None: it waits for leases only, or for ever."""
    positions: bool
    """The broker keeps a position for each partition instead of settling message by message."""
    delivery_count: bool | Literal["process"]
    """``Message.delivery`` counts deliveries. If False it is always 1. With ``"process"`` it counts
    the deliveries to this process, and begins at 1 in another one."""
    process_local: bool
    """The messages exist only in this process, and end with it."""
    batch_messages: int
    """How many messages one call of send, ack, nack or extend may hold at most."""
    batch_bytes: int | None
    """How many bytes one call of send may hold at most; None: no limit."""
    message_bytes: int | None
    """How many bytes a message may have: body, key and attributes; None: no limit."""
    message_attributes: int | None = None
    """How many attributes a message may have; None: no limit."""
    attribute_name_bytes: int | None = None
    """How many bytes the name of an attribute may have; None: no limit."""
    attribute_bytes: int | None = None
    """How many bytes the text of an attribute may have; None: no limit."""
    ordered_batches: bool = False
    """If an item of a send fails, the later items of its key in that batch fail too."""
    client_retries: bool = False
    """``send`` retries transient failures itself, for as long as that makes sense."""
    can_pause: bool = False
    """Receivers are PausingReceivers. Without that, a broker that keeps ``positions`` is not
    received from while the messages of one partition have no room to wait."""
    can_pause_all: bool = False
    """Receivers are PauseAllReceivers. Without that, nothing is received while a subscription is
    paused."""
    send_delay: float | None = None
    """Seconds for which a message can be kept until ``Message.deliver_at``; None: not at all."""
    pushes: bool = False
    """Receivers are PushedReceivers: the broker sends requests to this process."""
    can_browse: bool = False
    """The driver is a BrowsingDriver. Without that, dead letters are looked at by a receiver, and
    none of them can be skipped if the broker keeps ``positions``."""
    fan_out: bool = True
    """Each subscription to a topic gets all of its messages. If False, a topic is one queue: all
    receivers share its messages, whatever their subscription."""
    delivery_timeout: float = 60.0
    """Seconds that publishing waits for a broker that cannot be reached; ``send`` takes no longer.
    """
    events: EventBinding = PLAIN
    """How the attributes of CloudEvents are named on the wire. The engine translates them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one sender; see the capabilities of the same names."""

    batch_messages: int
    batch_bytes: int | None = None
    message_bytes: int | None = None
    message_attributes: int | None = None
    attribute_name_bytes: int | None = None
    attribute_bytes: int | None = None

    @staticmethod
    def of(capabilities: Capabilities) -> Limits:
        """Return the limits that all senders of a driver have."""
        return Limits(**{each.name: getattr(capabilities, each.name) for each in fields(Limits)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Describe a receiver, as far as it knows without a call to the broker."""

    backlog: int | None = None
    """Messages not yet received, including those that wait for redelivery; None: unknown."""
    oldest: float | None = None
    """Seconds since the oldest message of the backlog was published, 0 if there is none; None:
    unknown."""
    delayed: int | None = None
    """Messages that were published with a delay and are not due yet, not in the backlog; None:
    unknown."""
    lag: Mapping[str, int] = field(default_factory=dict)
    """The messages of each partition not received yet, by the partition's name in metrics."""
    assigned: int | None = None
    """How many partitions this receiver has; None if the broker has no partitions."""
    problem: str = ""
    """Why nothing is received now, if that may pass by itself and no receive raises for it."""
    stalled: str = ""
    """Why the receiver will never make progress again (its client died, or it has no partition
    although there is one for it); it is then replaced. Empty while all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of a subscription that cost a call to the broker; None: unknown."""

    backlog: int | None = None
    """Messages that no receiver has; with those in flight, if the broker does not tell them apart.
    """
    in_flight: int | None = None
    """Messages that a receiver of any process has, and has not settled."""
    delayed: int | None = None
    """Messages that are not due yet."""
    oldest: float | None = None
    """Seconds since the oldest message of the backlog was published, 0 if there is none."""


class Sender(Protocol):
    """Publish to one topic."""

    async def connect(self) -> None:
        """Get ready to send. Called once, before the first send, and again if it raised.

        Raises TopicNotFound if the topic does not exist, any other PubSubError otherwise.
        """

    async def send(self, batch: Sequence[Message]) -> Results:
        """Send messages in order; return None for each once the broker has confirmed it.

        A message with a ``deliver_at`` is delivered then, and holds back no other until then; it
        has one only if ``send_delay`` allows it.

        ``batch`` is within the limits of the capabilities, and holds at most one message for each
        key unless ``ordered_batches`` is declared. A failure of the whole call may be raised as a
        PubSubError instead: it counts for every item. There is one call at a time. It may be
        cancelled: the messages may or may not arrive, and the next send works. Raises UsageError
        after aclose.
        """

    async def aclose(self) -> None:
        """Flush and close. May be called twice, and without connect."""


class LimitedSender(Sender, Protocol):
    """Publish to a topic whose limits are known only once it is connected."""

    def limits(self) -> Limits:
        """Return the limits of this topic, none above that of the capabilities.

        Called after each ``connect``, without input or output. Without this member the limits are
        those of the capabilities.
        """


class Receiver(Protocol):
    """Consume one subscription to one topic.

    ``receive`` is called by one task at a time. The other methods may be called while it is
    pending, and while another call of theirs is pending.
    """

    async def connect(self, revoke: Revoke) -> None:
        """Subscribe. From here on the subscription collects the messages of the topic.

        Await ``revoke`` when the broker takes partitions away, before committing for them. Raises
        TopicNotFound if the topic or queue does not exist, and a transient PubSubError if the
        broker cannot be reached: connect is then called again.
        """

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return at most ``limit`` messages, as soon as there are any, or none after ``wait`` s.

        It is never cancelled before aclose: messages that the broker has handed out would be lost
        on the way. ``aclose`` ends a pending call, which returns nothing. The engine retries a
        transient PubSubError with backoff; any other error ends the subscriber.
        """

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Settle messages for good. A second ack of a message is refused or repeated, without harm.

        If the broker keeps ``positions``, the batch holds at most one message for each partition,
        and all messages of the partition up to it are handled.

        An item whose lease is over gets an error that is not transient. The engine retries the
        items that have transient errors.
        """

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Give messages back, to be delivered again after ``delay`` seconds; results as of ack."""

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Make the leases of messages last ``seconds`` from now; results as of ack."""

    def status(self) -> Status:
        """Return the status of the receiver, without input or output: it is called often.

        It may be called at any time, also before connect and after aclose.
        """

    async def aclose(self) -> None:
        """Give back all held messages, end a pending receive, and close. May be called twice."""


class PausingReceiver(Receiver, Protocol):
    """Consume partitions, each of which can be paused; needs the capability ``can_pause``."""

    def pause(self, partitions: Collection[Hashable]) -> None:
        """Return no further messages of ``partitions``, from a pending receive either.

        The others go on. Messages that were returned stay valid, and are settled as usual. A pause
        ends with the assignment of its partition. Does no input or output.
        """

    def resume(self, partitions: Collection[Hashable]) -> None:
        """Return messages of ``partitions`` again; a pending receive returns them, too.

        Ignores partitions that are not paused, or not assigned any more.
        """


class PauseAllReceiver(Receiver, Protocol):
    """Consume a subscription that can be paused as a whole; needs ``can_pause_all``.

    It is for brokers whose sessions need ``receive``: the engine goes on calling it, and the
    session lasts as long as the pause. Without this the engine does not call it meanwhile.
    """

    def pause_all(self) -> None:
        """Return no further messages, from a pending receive either; also before ``connect``.

        The pause lasts until ``resume_all``, also for partitions that are assigned later. ``acks``
        of messages that were returned count as usual. Does no input or output.
        """

    def resume_all(self) -> None:
        """Return messages again, except of partitions that ``pause`` has paused."""


class MeasuredReceiver(Receiver, Protocol):
    """Consume a subscription whose figures cost a call to the broker."""

    async def measure(self) -> Measured:
        """Ask the broker for the figures of the whole subscription.

        The engine calls it after ``connect``, every 15 s at most, one call at a time, and never for
        a scrape of the metrics. It may be called while other calls are pending, and be cancelled.
        Raises PubSubError if the broker does not answer.
        """


PushAnswer = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body of the answer to a push."""


class PushRoute(NamedTuple):
    """A route to which a broker pushes messages; the server mounts it."""

    method: str
    """In capitals, such as ``POST``."""
    path: str
    """It begins with ``/``, and is no template."""
    handle: Callable[[Mapping[str, str], bytes], Awaitable[PushAnswer]]
    """``await handle(headers, body)`` returns the answer once the message is settled.

    The names of the headers are in small letters; several of one name are joined by a comma. It
    answers 503 with ``Retry-After`` for a message that is not handled, and never raises. If it is
    cancelled, the message may be handled all the same.
    """


class PushedReceiver(Receiver, Protocol):
    """Consume messages that a broker pushes by HTTP; needs the capability ``pushes``."""

    def routes(self) -> Sequence[PushRoute]:
        """Return the routes, the same at any time, also before ``connect``. No input or output.

        Pushes may come at any time: those before ``connect`` and after ``aclose`` are answered 503.
        """

    def refuse_pushes(self) -> None:
        """Answer 503 to all pushes that no ``receive`` has returned, and to those that come later.

        The engine calls it when it receives no more. Messages that it has are settled as usual.
        """


class Browser(Protocol):
    """Look through the messages that a topic keeps, and settle any of them, in any order.

    It takes nothing from receivers. Other processes may have browsers of the same subscription:
    a message that one of them has settled is settled for all that begin later. One method is called
    at a time.
    """

    async def connect(self) -> None:
        """Connect. Raises TopicNotFound, or any other PubSubError."""

    def browse(self) -> AsyncIterator[Sequence[Message]]:
        """Yield the messages that are in the topic at the call and are not settled, then end.

        They have the order of publication within a key. Between two batches messages of earlier
        ones may be settled. Raises PubSubError if the broker does not answer.
        """

    async def settle(self, batch: Sequence[Message]) -> Results:
        """Settle messages that ``browse`` has yielded, for good; results as of ack."""

    async def measure(self) -> Measured:
        """Return how many messages are not settled, and the age of the oldest.

        Called at intervals; a browser reads what is new since the last call. May be cancelled.
        """

    async def aclose(self) -> None:
        """Close. May be called twice, and without connect."""


class Driver(Protocol):
    """Connect to the broker of one URL, by one connection or by many."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the broker."""

    def sender(self, topic: str) -> Sender:
        """Return a new sender, which connects in its own ``connect``."""

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> Receiver:
        """Return a new receiver; if ``ordered``, it keeps the order of each key's messages.

        Receivers of one subscription share its messages; each subscription receives all of them,
        unless the capability ``fan_out`` is False.
        """

    async def aclose(self) -> None:
        """Close the parts that senders and receivers share, after those. May be called twice."""


class BrowsingDriver(Driver, Protocol):
    """A driver that can look through topics; needs the capability ``can_browse``."""

    def browser(self, topic: str, subscription: str) -> Browser:
        """Return a new browser, which connects in its own ``connect``.

        Messages that ``subscription`` has acked are settled.
        """


class NamingDriver(Driver, Protocol):
    """A driver that needs to know whose choice the name of a subscription is."""

    def receiver(
        self, topic: str, subscription: str, *, ordered: bool, derived: bool = False
    ) -> Receiver:
        """Return a new receiver, as ``Driver.receiver`` does.

        ``derived`` says that ``subscription`` is the name of the service, because its declaration
        gives none.
        """


def new_receiver(
    driver: Driver, topic: str, subscription: str, *, ordered: bool, derived: bool
) -> Receiver:
    """Return a receiver of ``driver``, which is passed ``derived`` if it takes that."""
    if "derived" in signature(driver.receiver).parameters:
        naming = cast(NamingDriver, driver)
        return naming.receiver(topic, subscription, ordered=ordered, derived=derived)
    return driver.receiver(topic, subscription, ordered=ordered)
