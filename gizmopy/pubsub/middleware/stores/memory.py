"""Keep the marks of idempotency in this process: for a daemon with one replica, and for tests."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gizmopy.observe.context import new_id
from gizmopy.pubsub.middleware.idempotency import Begun, State


class _Mark(NamedTuple):
    token: str
    until: float


class MemoryStore:
    """Keep at most ``size`` marks; marks in progress are kept even beyond that.

    If there is no room, the done mark that was least recently used is removed. The store does not
    know the messages that other processes handled, nor those before a restart.
    """

    def __init__(self, size: int = 100_000, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._in_progress: dict[str, _Mark] = {}
        self._done: OrderedDict[str, _Mark] = OrderedDict()

    async def begin(self, key: str, seconds: float) -> Begun:
        """Mark ``key`` as in progress for ``seconds``, unless it has a mark."""
        now = self._clock()
        if (mark := self._done.get(key)) is not None and mark.until > now:
            self._done.move_to_end(key)
            return Begun(State.DONE, expires_in=mark.until - now)
        if (mark := self._in_progress.get(key)) is not None and mark.until > now:
            return Begun(State.IN_PROGRESS, expires_in=mark.until - now)
        self._done.pop(key, None)
        mark = self._in_progress[key] = _Mark(new_id(), now + seconds)
        self._make_room()
        return Begun(State.NEW, token=mark.token, expires_in=seconds)

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """Make the token's mark in progress expire ``seconds`` from now."""
        if not self._take(key, token):
            return False
        self._in_progress[key] = _Mark(token, self._clock() + seconds)
        return True

    async def commit(self, key: str, token: str, seconds: float) -> bool:
        """Change the token's mark to done, for ``seconds``. A repeated call succeeds."""
        if not self._take(key, token):
            mark = self._done.get(key)
            return mark is not None and mark.token == token and mark.until > self._clock()
        self._done[key] = _Mark(token, self._clock() + seconds)
        self._make_room()
        return True

    async def abort(self, key: str, token: str) -> bool:
        """Remove the token's mark, unless it is done."""
        return self._take(key, token)

    def _take(self, key: str, token: str) -> bool:
        """Remove the token's mark in progress; return whether it was still valid."""
        mark = self._in_progress.get(key)
        if mark is None or mark.token != token:
            return False
        del self._in_progress[key]
        return mark.until > self._clock()

    def _make_room(self) -> None:
        while self._done and len(self._in_progress) + len(self._done) > self._size:
            self._done.popitem(last=False)
