"""Keep the marks of idempotency in Redis, for all replicas of a daemon.

A mark is a key that Redis expires by itself. Its value is ``p:`` (in progress) or ``d:`` (done),
followed by the token. Each step is one script: it is atomic and takes one round trip. A client
repeats a command whose answer it has not received, so each script can safely run twice.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from gizmopy.config.plain_text import text_problem
from gizmopy.config.secrets.known import known_secrets
from gizmopy.config.urls import redacted_url
from gizmopy.errors import DriverNotInstalled, PubSubError, UsageError, seconds_from
from gizmopy.observe.context import new_id
from gizmopy.pubsub.middleware.idempotency import Begun, State
from gizmopy.untrusted.durations import DurationLike
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
    """Keep marks in Redis (2.6 or later, or a compatible server), under keys with ``prefix``.

    With a URL (``redis://host:6379/0``, ``rediss://…``, ``unix://…``) the store makes a client, and
    closes it at the end of its context; enter it in the service's ``lifespan``. A ``redis.asyncio``
    client that you pass is yours to close. The store connects with the first message. A step that
    takes longer than ``timeout`` seconds fails, retries of the client included.

    Configure Redis not to evict keys (``maxmemory-policy noeviction``): the message of an evicted
    mark may be handled twice, as after a failover that loses marks. Raises UsageError on a URL that
    is not one of Redis.
    """

    def __init__(
        self, redis: str | Redis, *, prefix: str = "gizmopy:", timeout: DurationLike = 5.0
    ) -> None:
        self._prefix = prefix
        self._timeout = seconds_from("RedisStore(timeout=)", timeout)
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
        """Close the client if the store made it. A later use connects again."""
        if self._owned:
            await self._redis.aclose()

    async def begin(self, key: str, seconds: float) -> Begun:
        """Mark ``key`` as in progress for ``seconds``, unless it has a mark."""
        token = new_id()
        state, left = await self._run(_BEGIN, key, f"p:{token}", _milliseconds(seconds))
        if _STATES[state] is not State.NEW:
            token = ""
        return Begun(_STATES[state], token, left / 1000)

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """Make the token's mark in progress expire ``seconds`` from now."""
        return bool(await self._run(_RENEW, key, f"p:{token}", _milliseconds(seconds)))

    async def commit(self, key: str, token: str, seconds: float) -> bool:
        """Change the token's mark to done, for ``seconds``. A repeated call succeeds."""
        milliseconds = _milliseconds(seconds)
        return bool(await self._run(_COMMIT, key, f"p:{token}", f"d:{token}", milliseconds))

    async def abort(self, key: str, token: str) -> bool:
        """Remove the token's mark, unless it is done."""
        return bool(await self._run(_ABORT, key, f"p:{token}"))

    async def _run(self, script: str, key: str, *arguments: str | int) -> Any:
        """Run a script in Redis. Raises PubSubError if Redis fails."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._redis.eval(script, 1, self._prefix + key, *arguments)
        except TimeoutError as error:
            reason = f"Redis did not answer within {self._timeout:g} s"
            raise PubSubError(reason, transient=True) from error
        except (RedisError, OSError) as error:
            raise PubSubError(
                f"Redis failed: {self._without_secrets(error)}", transient=True
            ) from error

    def _without_secrets(self, error: Exception) -> str:
        """Return the text of an error without the secrets of the URL."""
        return masked(text_of(error), self._secrets)


def _connect(url: str) -> Redis:
    """Return a client; it connects on its first use."""
    if text_problem(url) is None:
        try:
            return Redis.from_url(url)
        except ValueError:  # not chained: its text may contain the password
            pass
    remedy = "use redis://host:6379/0, rediss://… or unix://…"
    raise UsageError(f"{redacted_url(url)!r} is not a URL of Redis; {remedy}")


def _milliseconds(seconds: float) -> int:
    return max(1, round(1000 * seconds))
