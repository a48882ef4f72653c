"""Handle a message that is delivered twice only once: a store keeps a mark in two phases.

    begin ── new ────────→ handler ── returns ──→ commit: the mark is done
      ├───── in progress → retry later         └─ raises ──→ abort: the mark is removed
      └───── done ───────→ ack without handling

A handler that fails leaves no mark, so its message is handled again. A process that dies leaves a
mark in progress, which expires. A message can still be handled twice in two cases: the process dies
or the store fails between the handler's return and the commit, or a mark expires too early.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from enum import Enum
from hashlib import sha256
from typing import NamedTuple, Protocol

from gizmopy.errors import PubSubError, Retry, UsageError, seconds_from
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.durations import DurationLike
from gizmopy.untrusted.error_text import describe_error, text_of
from gizmopy.untrusted.text import quoted

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
"""The longest wait for another handling, or for the store, before the message is retried."""
_STORE_TIMEOUT = 1.0
"""The longest time for a renewal, which delays the extension of leases, and for an abort, which
delays a cancellation."""


class State(Enum):
    """The state of a key in a store."""

    NEW = "new"
    IN_PROGRESS = "in progress"
    DONE = "done"


class Begun(NamedTuple):
    """The answer of a store to ``begin``."""

    state: State
    """The state before the call."""
    token: str = ""
    """If the key was new: identifies the mark, which is now in progress."""
    expires_in: float | None = None
    """Seconds until the mark expires, if the store knows."""


class Store(Protocol):
    """Keep marks. Implement this for a store of your own.

    A key is 64 hexadecimal digits. Each method is atomic, bounded in time, and raises PubSubError
    if the store fails. After a mark has expired, its token is stale: the method has no effect and
    returns False.
    """

    async def begin(self, key: str, seconds: float) -> Begun:
        """Mark ``key`` as in progress for ``seconds``, unless it has a mark."""

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """Make the token's mark in progress expire ``seconds`` from now."""

    async def commit(self, key: str, token: str, seconds: float) -> bool:
        """Change the token's mark to done, for ``seconds``. A repeated call succeeds."""

    async def abort(self, key: str, token: str) -> bool:
        """Remove the token's mark, unless it is done."""


def _identity(message: Message) -> str:
    """Return the id of a message; for a broker with partitions, with its date and its origin.

    There an id is a partition and an offset. They begin again if the topic is made anew, and two
    clusters have the same ones: by the id alone, new messages would be acked unhandled. The origin
    tells such topics apart. The date does so if the broker does not tell the origin, and tells two
    messages apart of which the second took the place of the first, in a log that was truncated.
    """
    if message.partition is None or not message.id:
        return message.id
    return f"{message.id}@{message.published_at.isoformat()}@{message.origin}"


def idempotent(
    store: Store,
    *,
    key: Callable[[Message], str | None] = _identity,
    in_progress: DurationLike = 60.0,
    done: DurationLike = 3600.0,
    replay: str = "",
) -> MessageMiddleware:
    """Handle a message only if no other delivery of it is being handled or was handled.

    A message that was handled within the last ``done`` seconds is acked without handling. A message
    that is being handled elsewhere waits in place, and no attempt is counted. While the store
    fails, all messages wait like that: an outage of the store dead-letters no message.

    Any number of subscriptions can share a store: the marks are separate for each subscription and
    topic. ``key`` returns the identity of a message. The default is its id; on a broker with
    partitions, with its date and the ids of cluster and topic: a topic that is made anew has new
    messages. A message whose key is None or empty is always handled.

    ``replay`` is the name of a replay on purpose, such as ``"2026-12-01"``: messages that were
    handled under another name are handled again, each once.

    ``in_progress`` is how long the mark of a process that died delays the message. It must be at
    least the broker's lease, and is extended whenever the lease is.

    Raises UsageError on seconds not above 0.
    """
    in_progress_seconds = seconds_from("idempotent(in_progress=)", in_progress)
    done_seconds = seconds_from("idempotent(done=)", done)
    if not (in_progress_seconds > 0 and done_seconds > 0):
        reason = "would expire at once; use seconds above 0"
        raise UsageError(f"idempotent(in_progress={in_progress}, done={done}) {reason}")

    def wrap(handler: Handler) -> Handler:
        marks = _Marks(store, in_progress_seconds)

        async def handle(message: Message) -> None:
            if not (name := key(message)):
                await handler(message)
                return
            # Two phases, because neither order of one step would do. A mark made before the handler
            # loses the message if the process dies in it; one made after it lets a concurrent
            # delivery run the handler too.
            mark = await marks.begin(message, f"{name}@replay={replay}" if replay else str(name))
            if mark is None:
                logger.debug("%r was handled before; it is acked without handling", message)
                return
            message.on_extend = mark.renew
            try:
                await handler(message)
            except BaseException:
                await mark.abort()
                raise
            finally:
                message.on_extend = None
            await mark.commit(done_seconds)

        return handle

    return wrap


class _Marks:
    """Begin the handlings of one handler, and log once when the store fails."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._is_failing = False

    async def begin(self, message: Message, name: str) -> _Mark | None:
        """Return a new mark, or None if the message is done. Raises Retry if that is not known."""
        key = mark_key(message.subscription, message.topic, str(name))
        try:
            begun = await self._store.begin(key, self._seconds)
        except PubSubError as error:
            self._log_failure(message, error)
            after = random.uniform(0.2, 1.0) * _RETRY_SECONDS
            raise Retry(f"the store fails: {text_of(error)}", after=after, counted=False) from error
        self._log_failure(message, None)
        if begun.state is State.DONE:
            return None
        if begun.state is State.IN_PROGRESS:
            after = (
                _RETRY_SECONDS
                if begun.expires_in is None
                else min(_RETRY_SECONDS, begun.expires_in)
            )
            raise Retry("another delivery of it is being handled", after=after, counted=False)
        shown = f"message {quoted(message.id)} of {message.topic}/{message.subscription}"
        return _Mark(self._store, key, begun.token, self._seconds, shown)

    def _log_failure(self, message: Message, error: PubSubError | None) -> None:
        name = f"{message.topic}/{message.subscription}"
        if error is not None and not self._is_failing:
            logger.warning("the store of %s fails, and its messages wait: %s", name, text_of(error))
        if error is None and self._is_failing:
            logger.info("the store of %s works again", name)
        self._is_failing = error is not None


def mark_key(subscription: str, topic: str, key: str) -> str:
    """Return the store's key for a message: 64 hexadecimal digits.

    It is the SHA-256 of the three texts, each in UTF-8 after its length in bytes and a colon. If
    they were joined with a slash, topic ``t`` with key ``x/y`` and topic ``t/x`` with key ``y``
    would share a mark. A hash has one size: the sender chooses the key, and must not choose how
    much memory its mark takes.
    """
    digest = sha256()
    for part in (subscription, topic, key):
        data = part.encode("utf-8", "surrogatepass")  # a key may hold bytes that are not UTF-8
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


class _Mark:
    """The mark of one message while it is handled."""

    def __init__(self, store: Store, key: str, token: str, seconds: float, shown: str) -> None:
        self._store = store
        self._key = key
        self._token = token
        self._seconds = seconds
        self._shown = shown
        self._is_settled = False

    async def renew(self, seconds: float) -> None:
        """Extend the mark with the lease, by ``seconds``. Raises the error of the store."""
        async with asyncio.timeout(_STORE_TIMEOUT):
            seconds = max(seconds, self._seconds)
            renewed = await self._store.renew(self._key, self._token, seconds)
        if not (renewed or self._is_settled):
            self._warn_of_expiry("while it is handled")

    async def commit(self, seconds: float) -> None:
        """Mark the message as done. It was handled, so a failure of the store is only logged."""
        self._is_settled = True
        try:
            if not await self._store.commit(self._key, self._token, seconds):
                self._warn_of_expiry("before it was handled")
        except Exception as error:  # noqa: BLE001 - raised, it would have the message handled again
            logger.warning(
                "%s was handled, but could not be marked as done: %s",
                self._shown,
                describe_error(error),
            )

    async def abort(self) -> None:
        """Remove the mark; if that fails, it expires."""
        self._is_settled = True
        try:
            async with asyncio.timeout(_STORE_TIMEOUT):
                await self._store.abort(self._key, self._token)
        except Exception as error:  # noqa: BLE001 - the error of the handling is raised instead
            logger.warning(
                "the mark of %s could not be removed and expires within %g s: %s",
                self._shown,
                self._seconds,
                describe_error(error),
            )

    def _warn_of_expiry(self, when: str) -> None:
        logger.warning(
            "the mark of %s expired %s, so another process may handle it too; raise in_progress=%g",
            self._shown,
            when,
            self._seconds,
        )
