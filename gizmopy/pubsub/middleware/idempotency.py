"""Handle what is delivered twice only once, with a store that remembers it in two phases.

    begin ── new ────────→ handler ── returns ──→ commit: a mark that says done
      ├───── in progress → again, later        └─ raises ──→ abort: no mark is left
      └───── done ───────→ acked, not handled

A handler that fails leaves no mark: its message is handled again. A process that dies leaves a
mark that says in progress, which expires. What is left of at least once: a daemon that dies, or a
store that fails, between the handler's return and the commit; and a mark that expired too early.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from enum import Enum
from hashlib import sha256
from typing import NamedTuple, Protocol

from gizmopy.errors import PubSubError, Retry, UsageError
from gizmopy.pubsub.handlers import Handler, MessageMiddleware
from gizmopy.pubsub.message import Message
from gizmopy.untrusted.error_text import named, text_of
from gizmopy.untrusted.text import quoted

logger = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
"""Seconds after which who waits, for another's handling or for the store, looks again at most."""
_PATIENCE = 1.0
"""Seconds that a renewal may hold up the keeping of leases, and an abort what was cancelled."""


class State(Enum):
    """What a store knows of a key."""

    NEW = "new"
    IN_PROGRESS = "in progress"
    DONE = "done"


class Begun(NamedTuple):
    """What a store says to who wants to begin."""

    state: State
    """What was known before."""
    token: str = ""
    """Proves, where the key was new, who set the mark that now says in progress."""
    expires_in: float | None = None
    """Seconds until the mark expires, where the store knows."""


class Store(Protocol):
    """Keep marks; a third party's store implements this.

    A key is 64 hexadecimal digits. Each method is atomic, bounded in time, and raises PubSubError
    if the store fails. A token is stale once its mark has expired, and does nothing then: False is
    returned.
    """

    async def begin(self, key: str, seconds: float) -> Begun:
        """Mark ``key`` as in progress for ``seconds``, unless there is a mark."""

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """Let the token's mark, which says in progress, last ``seconds`` from now."""

    async def commit(self, key: str, token: str, seconds: float) -> bool:
        """Have the token's mark say done, for ``seconds``; it may be said again."""

    async def abort(self, key: str, token: str) -> bool:
        """Remove the token's mark, unless it says done."""


def _message_id(message: Message) -> str:
    return message.id


def idempotent(
    store: Store,
    *,
    key: Callable[[Message], str | None] = _message_id,
    in_progress: float = 60.0,
    done: float = 3600.0,
) -> MessageMiddleware:
    """Handle a message only where no other delivery of it is being handled, or was.

    What was handled within the last ``done`` seconds is acked unhandled; what is being handled
    waits in place, uncounted, and so does all while the store fails: an outage of the store
    dead-letters nothing.

    A store may be shared by any number of subscriptions: each has marks of its own for each topic.
    ``key`` says which messages are the same, by default those of one id; one without a key (None
    or empty) is handled each time.

    ``in_progress`` is how long the mark of a process that died holds up the message. It is to be
    at least the broker's lease, and is prolonged whenever the lease is.

    Raises UsageError on seconds not above 0.
    """
    if not (in_progress > 0 and done > 0):
        reason = "remembers nothing; use seconds above 0"
        raise UsageError(f"idempotent(in_progress={in_progress}, done={done}) {reason}")

    def wrap(handler: Handler) -> Handler:
        marks = _Marks(store, in_progress)

        async def handle(message: Message) -> None:
            if not (name := key(message)):
                await handler(message)
                return
            mark = await marks.begin(message, name)
            if mark is None:
                logger.debug("%r was handled before, and is not again", message)
                return
            message.on_extend = mark.renew
            try:
                await handler(message)
            except BaseException:
                await mark.abort()
                raise
            finally:
                message.on_extend = None
            await mark.commit(done)

        return handle

    return wrap


class _Marks:
    """Begin for one handler, and say once when the store fails."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._failing = False

    async def begin(self, message: Message, name: str) -> _Mark | None:
        """Return a new mark, or None where one says done. Raises Retry where nobody knows."""
        key = mark_key(message.subscription, message.topic, str(name))
        try:
            begun = await self._store.begin(key, self._seconds)
        except PubSubError as error:
            self._note(message, error)
            after = random.uniform(0.2, 1.0) * _LOOK_AGAIN
            raise Retry(f"the store fails: {text_of(error)}", after=after, counted=False) from error
        self._note(message, None)
        if begun.state is State.DONE:
            return None
        if begun.state is State.IN_PROGRESS:
            after = _LOOK_AGAIN if begun.expires_in is None else min(_LOOK_AGAIN, begun.expires_in)
            raise Retry("another delivery of it is being handled", after=after, counted=False)
        shown = f"message {quoted(message.id)} of {message.topic}/{message.subscription}"
        return _Mark(self._store, key, begun.token, self._seconds, shown)

    def _note(self, message: Message, error: PubSubError | None) -> None:
        name = f"{message.topic}/{message.subscription}"
        if error is not None and not self._failing:
            logger.warning("the store of %s fails, its messages wait: %s", name, text_of(error))
        if error is None and self._failing:
            logger.info("the store of %s works again", name)
        self._failing = error is not None


def mark_key(subscription: str, topic: str, key: str) -> str:
    """Return the key that a store gets for a message: 64 hexadecimal digits.

    It is the SHA-256 of the three, each in UTF-8 after its length in bytes and a colon. Joined with
    a slash, as they were at first, topic ``t`` with key ``x/y`` and topic ``t/x`` with key ``y``
    had one mark, and a sender that chooses the key chose how much memory its mark takes.
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
        self._ended = False

    async def renew(self, seconds: float) -> None:
        """Go along with the lease, which now lasts for ``seconds``. Raises what the store does."""
        async with asyncio.timeout(_PATIENCE):
            seconds = max(seconds, self._seconds)
            renewed = await self._store.renew(self._key, self._token, seconds)
        if not (renewed or self._ended):
            self._warn_of_expiry("while it is handled")

    async def commit(self, seconds: float) -> None:
        """Say that the message is handled. It is, even where that cannot be remembered."""
        self._ended = True
        try:
            if not await self._store.commit(self._key, self._token, seconds):
                self._warn_of_expiry("before it was handled")
        except Exception as error:  # noqa: BLE001 - a failure now would have it handled again
            logger.warning(
                "%s is handled, but its mark does not say so: %s", self._shown, named(error)
            )

    async def abort(self) -> None:
        """Leave no mark; where that fails, it expires."""
        self._ended = True
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._store.abort(self._key, self._token)
        except Exception as error:  # noqa: BLE001 - what is to be told is why the handling failed
            logger.warning(
                "the mark of %s stays for up to %g s: %s",
                self._shown,
                self._seconds,
                named(error),
            )

    def _warn_of_expiry(self, when: str) -> None:
        logger.warning(
            "the mark of %s expired %s, so that another may handle it too; raise in_progress=%g",
            self._shown,
            when,
            self._seconds,
        )
