"""Remember the messages that failed, and log failures: each one once, and never with the body."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from time import monotonic

from gizmopy.pubsub.engine.dead_letter import Failure
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.subscription import Subscription
from gizmopy.untrusted.error_text import describe_error, shortened
from gizmopy.untrusted.text import cut

logger = logging.getLogger("gizmopy.pubsub.failures")

_MAX_LOGGED_IDS = 10_000
_REDELIVERED_WITHIN = 60.0
"""Seconds after the delay of a message that was given back: until then it counts as stuck."""


class Failures:
    """Hold the messages of one subscriber that have failed and are not settled."""

    def __init__(self, subscription: Subscription, name: str) -> None:
        self._stuck: set[Message] = set()
        """Messages here that failed for good, and have no dead letter."""
        self._stuck_until: dict[int, float] = {}
        """The same for messages that were given back, by the hash of their id: until when."""
        self.first_failed_at: dict[Message, datetime | None] = {}
        """When each message failed first; None if it was only postponed."""
        self._subscription = subscription
        self._name = name
        # Some brokers let the sender choose the id, so it may be of any length: the set holds
        # hashes of ids. If two of them are equal, one line is missing in the log.
        self._logged_stuck: set[int] = set()

    def add(self, message: Message) -> None:
        """Remember when ``message`` failed first."""
        if self.first_failed_at.get(message) is None:
            self.first_failed_at[message] = datetime.now(UTC)

    def add_postponed(self, message: Message) -> None:
        """Remember that ``message`` was postponed, which is not a failure."""
        self.first_failed_at.setdefault(message, None)

    def forget(self, message: Message) -> None:
        """Forget a message that is about to be settled, or was lost."""
        self.first_failed_at.pop(message, None)
        self._stuck.discard(message)

    def failure_of(self, message: Message, reason: str, error: BaseException) -> Failure:
        """Return all that the dead letter of ``message`` says."""
        first = self.first_failed_at.get(message) or datetime.now(UTC)
        return Failure(message, reason, error, self._subscription, first)

    # Stuck.

    def add_stuck(self, message: Message, delay: float, *, stays: bool) -> None:
        """Remember a message without a dead letter, which ``stays`` here, or is given back."""
        if stays:
            self._stuck.add(message)
            return
        if len(self._stuck_until) >= _MAX_LOGGED_IDS:
            self._stuck_until.clear()
        self._stuck_until[hash(message.id)] = monotonic() + delay + _REDELIVERED_WITHIN

    @property
    def stuck(self) -> int:
        """How many messages failed for good and have no dead letter."""
        now = monotonic()
        self._stuck_until = {key: at for key, at in self._stuck_until.items() if at > now}
        return len(self._stuck) + len(self._stuck_until)

    # Log.

    def log_retry(self, message: Message, error: BaseException, delay: float) -> None:
        """Log that a message is handled again here; the last failure logs a traceback."""
        self._log(logging.WARNING, message, error, f"again in {delay:.1f} s", None)

    def log_redelivery(self, message: Message, error: BaseException, delay: float) -> None:
        """Log that a message is given back to the broker, which delivers it again."""
        self._log(logging.ERROR, message, error, f"again in {delay:.1f} s", error)

    def log_dead_letter(self, message: Message, reason: str, error: BaseException) -> None:
        """Log a dead letter that the broker has confirmed."""
        self._log(
            logging.ERROR, message, error, f"dead-lettered ({reason})", _traceback(reason, error)
        )

    def log_dead_letter_failed(
        self, message: Message, error: BaseException, failure: BaseException
    ) -> None:
        """Log that the dead letter of a message could not be published because of ``failure``."""
        self._log(logging.ERROR, message, error, "and its dead letter was not published", failure)

    def log_stuck(
        self,
        message: Message,
        reason: str,
        error: BaseException,
        failure: BaseException | None,
    ) -> None:
        """Log that a message has no dead letter; once for each id, as it fails forever.

        ``failure`` is why the dead letter was refused; None if there is no channel for it.
        """
        id_hash = hash(message.id)
        if id_hash in self._logged_stuck:
            return
        if len(self._logged_stuck) >= _MAX_LOGGED_IDS:
            self._logged_stuck.clear()
        self._logged_stuck.add(id_hash)
        if failure is None:
            then = f"{reason}, and kept, because the subscription has no dead_letter= channel"
        else:
            then = (
                f"{reason}, and kept, because the channel {self._subscription.dead_letter!r} does "
                f"not accept its dead letter ({describe_error(failure)}); correct that channel or "
                "its limits, or delete the message at the broker"
            )
        self._log(logging.ERROR, message, error, then, _traceback(reason, error))

    def _log(
        self,
        level: int,
        message: Message,
        error: BaseException,
        then: str,
        traceback: BaseException | None,
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
            describe_error(error),
            exc_info=None if traceback is None else shortened(traceback),
        )


def _traceback(reason: str, error: BaseException) -> BaseException | None:
    """Return the error to log with its traceback.

    None for an undecodable message: the error's cause is the codec's, and may quote the body.
    """
    return None if reason == "undecodable" else error
