"""The turn of each message: when it may be handled, and how it ends.

A turn begins when a message is handed to the workers: at once, or in an ordered subscription after
the turn of the message before it in its lane. It ends when the message is handed to the settler.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from operator import attrgetter

from gizmopy.errors import StartError
from gizmopy.pubsub.driver import Capabilities
from gizmopy.pubsub.engine.failures import Failures
from gizmopy.pubsub.engine.in_flight import InFlight
from gizmopy.pubsub.engine.lanes import Lanes
from gizmopy.pubsub.engine.observer import Observer
from gizmopy.pubsub.engine.ready_queue import ReadyQueue
from gizmopy.pubsub.engine.settler import Settler, Stopped
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.pipeline")

_key = attrgetter("key")
# With the topic, so that the lane of a broker without partitions is not None: a message whose lane
# is None is in no order.
_partition = attrgetter("topic", "partition")


def check_order(subscription: Subscription, capabilities: Capabilities) -> None:
    """Raise StartError if the broker cannot keep the order that the subscription asks for."""
    if subscription.order != "none" and not capabilities.ordering:
        raise StartError(
            f"{subscription.name}: order={subscription.order!r} of channel "
            f"{subscription.channel!r} needs a broker that keeps order; use order='none' or "
            "another broker"
        )


class Turns:
    """Hand messages to the workers, in order if the subscription keeps one, and settle them."""

    def __init__(
        self,
        subscription: Subscription,
        capabilities: Capabilities,
        in_flight: InFlight,
        settler: Settler,
        failures: Failures,
        events: Observer,
        *,
        name: str,
    ) -> None:
        self.in_flight = in_flight
        self.waiting = in_flight.waiting
        self.settler = settler
        self.failures = failures
        self.ready = ReadyQueue(in_flight.changed.set)
        self.lanes: Lanes[Message] = Lanes()
        self.ordered = subscription.order != "none"
        self._lane_key = _key if subscription.order == "key" else _partition
        self._capabilities = capabilities
        self._gives_back = capabilities.can_nack and not capabilities.process_local
        """Whether a pause gives messages back: another process may handle them meanwhile."""
        self._events = events
        self._name = name

    # Pause.

    def pause(self) -> None:
        """Begin no attempt until ``resume``; handlers that run go on.

        Messages that no worker has are given back if the broker takes them: else their leases would
        have to be extended for as long as the pause lasts. Others are kept for ``resume``.
        """
        self.ready.pause()
        if self._gives_back:
            waiting = self.lanes.take_waiting()
            for message in waiting:
                self.waiting.leave(message)
            ready = [*self.ready.held]
            self.ready.held.clear()
            for message in ready:
                self.finish(message)
            for message in (*ready, *waiting):
                self.settler.release(message, "released")

    def resume(self) -> None:
        """Begin attempts again."""
        self.ready.resume()

    def again(self, message: Message) -> None:
        """Begin another attempt of a message whose turn goes on."""
        if self.ready.paused and self._gives_back:
            self.release(message)
        else:
            self.ready.put(message)

    @property
    def held(self) -> int:
        """How many messages wait for the end of a pause."""
        return len(self.ready.held) + self.lanes.waiting if self.ready.paused else 0

    # Begin.

    def begin(self, batch: Sequence[Message]) -> None:
        """Begin the turns of messages that were received; some wait for others of their lane."""
        ready = self.ready
        if ready.paused and self._gives_back:  # the pause began while they were being received
            for message in batch:
                message._lane = None
                self.settler.release(message, "released")
            return
        ready.incoming.extend(self._first_of_lanes(batch) if self.ordered else batch)
        ready.wake()

    def _first_of_lanes(self, batch: Sequence[Message]) -> Iterator[Message]:
        lane_key, enter, wait = self._lane_key, self.lanes.enter, self.waiting.enter
        for message in batch:
            # Kept, because a handler that changed the key would close its lane for ever.
            key = message._lane = lane_key(message)
            if key is None or enter(key, message):
                yield message
            else:
                wait(message)

    # End, by what became of the message.

    def ack(self, message: Message, dead_lettered: BaseException | None = None) -> None:
        """Ack a message that was handled, or ``dead_lettered`` because of an error."""
        # The attributes and not the methods of both: this runs for each message, and a call would
        # cost 1 % of its handling.
        if message not in self.in_flight.received_at:
            self.end_stale(message)
            return
        if self.ordered or self.failures.first_failed_at:
            self.finish(message)
        self.settler.ack(message, dead_lettered)

    def nack(self, message: Message, error: BaseException, delay: float) -> None:
        """Give back a message that failed, to be delivered again after ``delay`` seconds."""
        self.finish(message)
        self.settler.release(message, "nack", error, delay)

    def release(self, message: Message) -> None:
        """Give back a message that failed during the drain and cannot be retried here."""
        self.finish(message)
        self.settler.release(message, "released")

    def stop(self, message: Message) -> None:
        """Give back a message whose handler was cancelled by the drain."""
        self.finish(message)
        outcome = "nack" if self._capabilities.can_nack else "released"
        self.settler.release(message, outcome, Stopped())

    def end_stale(self, message: Message) -> None:
        """Settle nothing: the message was lost while its handler ran, and is delivered again."""
        logger.warning(
            "message %s of %s was handled after it was lost: the broker delivers it again",
            cut(message.id),
            self._name,
        )
        self._events.stale(message)
        self.finish(message)
        self.in_flight.changed.set()

    def finish(self, message: Message) -> None:
        """End a turn: forget the failures of the message, and let the next of its lane go."""
        if self.failures.first_failed_at:
            self.failures.forget(message)
        if not self.ordered or (key := message._lane) is None:
            return
        if (successor := self.lanes.finish(key)) is not None:
            self.waiting.leave(successor)
            self.ready.put(successor)

    # Messages that leave without having been handled.

    def remove_lost(self, message: Message, *, waits_for_retry: bool) -> None:
        """Remove a message that was lost, unless a worker has it.

        The broker delivers it again. Its successors must not be handled before it, so they go back
        too. They stay if the broker takes no message back: it would never deliver them again.
        """
        waits_in_lane = False
        # A message that came after the end of the intake has never had a turn.
        if self.ordered and (key := getattr(message, "_lane", None)) is not None:
            if self._capabilities.can_nack:
                before = self.lanes.waiting
                followers = self.lanes.take_behind(key, message)
                waits_in_lane = before - self.lanes.waiting > len(followers)
                for follower in followers:
                    self.waiting.leave(follower)
                    self.settler.release(follower, "released")
            else:
                waits_in_lane = self.lanes.remove(key, message)
        if waits_in_lane:
            self.waiting.leave(message)
        if waits_for_retry:
            self.finish(message)
        elif not waits_in_lane and message in self.ready.incoming:
            self.ready.incoming.remove(message)
            self.finish(message)

    def take_unstarted(self) -> list[Message]:
        """Remove and return all messages that no worker has taken; workers end from now on."""
        waiting = self.lanes.take_waiting()
        for message in waiting:
            self.waiting.leave(message)
        return [*self.ready.close(), *waiting]
