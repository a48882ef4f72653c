"""Remember what has failed, and tell of it: once for each failure, and never with the body."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from gizmopy.pubsub.engine.dead_letter import as_dead_letter
from gizmopy.pubsub.engine.metrics import SubscriberMetrics
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import named, shortened
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.failures")

_STUCK_REMEMBERED = 10_000


class Failures:
    """Hold the messages of one subscriber that have failed and are not settled."""

    def __init__(self, subscription: Subscription, name: str, metrics: SubscriberMetrics) -> None:
        self.stuck: set[Message] = set()
        """What is given up and holds up its lane, for want of a dead letter channel."""
        self.first: dict[Message, datetime | None] = {}
        """When each message failed first; None where it was only put off."""
        self._subscription = subscription
        self._name = name
        self._metrics = metrics
        self._said: set[int] = set()
        """The hashes of the ids that were logged: with some brokers the sender chooses the id, so
        it has any length. If two hashes are equal, one log line is missing."""

    def note(self, message: Message) -> None:
        """Remember when ``message`` failed first."""
        if self.first.get(message) is None:
            self.first[message] = datetime.now(UTC)

    def note_postponed(self, message: Message) -> None:
        """Remember that ``message`` was put off, which is no failure."""
        self.first.setdefault(message, None)

    def forget(self, message: Message) -> None:
        """Remember no more of a message that leaves."""
        self.first.pop(message, None)
        self.stuck.discard(message)

    def dead_letter(self, message: Message, reason: str, error: BaseException) -> Message:
        """Return ``message`` as it is published to the dead letters."""
        first = self.first[message] or datetime.now(UTC)
        return as_dead_letter(message, reason, error, self._subscription, first)

    def tell(self, message: Message, error: BaseException, then: str, *, again: bool) -> None:
        """Log a failed handling; where it is tried again in place, without its traceback."""
        if again:
            self._log(logging.WARNING, message, error, then, None)
        else:
            self._log(logging.ERROR, message, error, then, error)

    def tell_refused(self, message: Message, error: BaseException, failure: BaseException) -> None:
        """Log that the dead letter of a message was not taken."""
        self._log(logging.ERROR, message, error, "and its dead letter was refused", failure)

    def tell_buried(self, message: Message, reason: str, error: BaseException) -> None:
        """Count and log a dead letter that is confirmed."""
        self._metrics.count_dead_letter(reason)
        trace = None if reason == "undecodable" else error  # its cause may quote the body
        self._log(logging.ERROR, message, error, f"dead-lettered ({reason})", trace)

    def tell_stuck(
        self, message: Message, reason: str, error: BaseException, *, blocks: bool
    ) -> None:
        """Count a message that should be a dead letter and cannot, and say so once."""
        self._metrics.count_stuck(reason)
        if blocks:
            self.stuck.add(message)
        said = hash(message.id)
        if said in self._said:
            return
        if len(self._said) >= _STUCK_REMEMBERED:
            self._said.clear()
        self._said.add(said)
        trace = None if reason == "undecodable" else error
        then = f"{reason}, and kept: there is no dead_letter= channel to put it"
        self._log(logging.ERROR, message, error, then, trace)

    def _log(
        self,
        level: int,
        message: Message,
        error: BaseException,
        then: str,
        trace: BaseException | None,
    ) -> None:
        logger.log(
            level,
            "%s failed on message %s of %s (delivery %d, attempt %d), %s: %s",
            self._subscription.name,
            cut(message.id),
            self._name,
            message.delivery,
            message.attempt,
            then,
            named(error),
            exc_info=None if trace is None else shortened(trace),
        )
