"""Remember in Redis what was handled, for all replicas of a daemon.

A mark is a key that Redis expires by itself; its value is ``p:`` (in progress) or ``d:`` (done) and
the token of who set it. Each step is one script, hence atomic, and one round trip; and as a client
sends again what it has not heard of, each step may run twice.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from gizmopy.config.plain_text import text_problem
from gizmopy.config.secrets.known import known_secrets
from gizmopy.config.urls import redacted_url
from gizmopy.errors import DriverNotInstalled, PubSubError, UsageError
from gizmopy.observe.context import new_id
from gizmopy.pubsub.middleware.idempotency import Begun, State
from gizmopy.untrusted.error_text import text_of
from gizmopy.untrusted.hidden import masked

try:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError
except ModuleNotFoundError as error:
    raise DriverNotInstalled("redis", "redis") from error

_BEGIN = """
local mark = redis.call('GET', KEYS[1])
if mark and mark ~= ARGV[1] then
  return {string.sub(mark, 1, 1) == 'd' and 2 or 1, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {0, tonumber(ARGV[2])}
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_COMMIT = """
local mark = redis.call('GET', KEYS[1])
if mark == ARGV[2] then return 1 end
if mark ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_ABORT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
_STATES = (State.NEW, State.IN_PROGRESS, State.DONE)


class RedisStore:
    """Keep marks in Redis (2.6 or later, or what speaks like it), under keys that begin ``prefix``.

    Given a URL (``redis://host:6379/0``, ``rediss://…``, ``unix://…``) it makes a client, and
    closes it as an async context manager, best in the service's ``lifespan``; a ``redis.asyncio``
    client that is given stays yours to close. Nothing is connected before the first message. A
    step fails that takes longer than ``timeout`` seconds, retries of the client's included.

    Have Redis evict no keys (``maxmemory-policy noeviction``): an evicted mark is forgotten, and
    so is one that a failover loses. Raises UsageError on a URL that is none of Redis.
    """

    def __init__(
        self, redis: str | Redis, *, prefix: str = "gizmopy:", timeout: float = 5.0
    ) -> None:
        self._prefix = prefix
        self._timeout = timeout
        self._owned = isinstance(redis, str)
        self._redis = _connect(redis) if isinstance(redis, str) else redis
        self._secrets = known_secrets(redis) if isinstance(redis, str) else ()

    async def __aenter__(self) -> RedisStore:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client, where it was made here. A later use connects again."""
        if self._owned:
            await self._redis.aclose()

    async def begin(self, key: str, seconds: float) -> Begun:
        """Mark ``key`` as in progress for ``seconds``, unless there is a mark."""
        token = new_id()
        state, left = await self._run(_BEGIN, key, f"p:{token}", _milliseconds(seconds))
        if _STATES[state] is not State.NEW:
            token = ""
        return Begun(_STATES[state], token, left / 1000)

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """Let the token's mark, which says in progress, last ``seconds`` from now."""
        return bool(await self._run(_RENEW, key, f"p:{token}", _milliseconds(seconds)))

    async def commit(self, key: str, token: str, seconds: float) -> bool:
        """Have the token's mark say done, for ``seconds``; it may be said again."""
        milliseconds = _milliseconds(seconds)
        return bool(await self._run(_COMMIT, key, f"p:{token}", f"d:{token}", milliseconds))

    async def abort(self, key: str, token: str) -> bool:
        """Remove the token's mark, unless it says done."""
        return bool(await self._run(_ABORT, key, f"p:{token}"))

    async def _run(self, script: str, key: str, *arguments: str | int) -> Any:
        """Run a script in Redis. Raises PubSubError where Redis fails."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._redis.eval(script, 1, self._prefix + key, *arguments)
        except TimeoutError as error:
            reason = f"Redis has not answered within {self._timeout:g} s"
            raise PubSubError(reason, transient=True) from error
        except (RedisError, OSError) as error:
            raise PubSubError(f"Redis failed: {self._cleared(error)}", transient=True) from error

    def _cleared(self, error: Exception) -> str:
        """Return the text of an error without the secrets of the URL."""
        return masked(text_of(error), self._secrets)


def _connect(url: str) -> Redis:
    """Return a client that connects when it is first used."""
    if text_problem(url) is None:
        try:
            return Redis.from_url(url)
        except ValueError:  # not chained: its text may have the password in it
            pass
    remedy = "use redis://host:6379/0, rediss://… or unix://…"
    raise UsageError(f"{redacted_url(url)!r} is no URL of Redis; {remedy}")


def _milliseconds(seconds: float) -> int:
    return max(1, round(1000 * seconds))
