"""The contract of idempotency stores, checked on each store; Redis is a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gizmopy.errors import PubSubError, UsageError
from gizmopy.observe.context import new_id
from gizmopy.pubsub.middleware import Begun, MemoryStore, State, Store
from gizmopy.pubsub.middleware.stores.redis import RedisStore
from tests.integration.redis_server import redis_server
from tests.pubsub.support import FakeClock

ROOT = Path(__file__).parents[3]
KEY = "cats/7"


class Bench(Protocol):
    """A store, empty, whose time a test can move."""

    @property
    def store(self) -> Store: ...

    async def advance(self, seconds: float) -> None:
        """Let seconds pass."""


class MemoryBench:
    def __init__(self) -> None:
        self._clock = FakeClock()
        self.store = MemoryStore(clock=self._clock.time)

    async def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)


class RedisBench:
    """Redis keeps the time by itself, so that keys are brought nearer to their end instead."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.prefix = f"{new_id()}:"
        self.store = RedisStore(client, prefix=self.prefix)

    async def advance(self, seconds: float) -> None:
        async for name in self.client.scan_iter(f"{self.prefix}*"):
            left = await self.client.pttl(name)
            await self.client.pexpire(name, left - round(1000 * seconds))


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a Redis server for the tests of this module."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@asynccontextmanager
async def _memory() -> AsyncIterator[Bench]:
    yield MemoryBench()


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[Bench]:
    async with Redis.from_url(url) as client:
        yield RedisBench(client)


@pytest.fixture(scope="module", params=["memory", "redis"])
def open_bench(request: pytest.FixtureRequest) -> Any:
    """Yield a function that opens a bench with a new store of each kind."""
    if request.param == "memory":
        return _memory
    url = request.getfixturevalue("redis_url")
    return lambda: _redis(url)


@pytest.fixture
async def bench(open_bench: Any) -> AsyncIterator[Bench]:
    """Yield one bench of each kind."""
    async with open_bench() as opened:
        yield opened


async def begin(bench: Bench, key: str = KEY, seconds: float = 60) -> str:
    """Begin with a new key, and return the token."""
    begun = await bench.store.begin(key, seconds)
    assert begun.state is State.NEW
    assert begun.token
    return begun.token


async def state(bench: Bench, key: str = KEY) -> State:
    """Return the state of a key; an unknown key is marked for an hour."""
    return (await bench.store.begin(key, 3600)).state


def expires_in(begun: Begun, seconds: float) -> bool:
    """Return whether a mark expires in about that many seconds."""
    assert begun.expires_in is not None
    return seconds - 10 < begun.expires_in <= seconds


async def test_one_call_begins_and_others_find_it_in_progress(bench: Bench) -> None:
    """A key is new once; then the answer has the expiry and no token."""
    await begin(bench, seconds=60)
    begun = await bench.store.begin(KEY, 3600)
    assert begun.state is State.IN_PROGRESS
    assert not begun.token
    assert expires_in(begun, 60)


async def test_keys_are_independent(bench: Bench) -> None:
    """Keys are independent, whatever characters they have."""
    keys = [KEY, f"{KEY}/", "", " ", "ä\n:*?[x]", "x" * 5000]
    tokens = [await begin(bench, key) for key in keys]
    assert len(set(tokens)) == len(keys)
    assert await bench.store.commit(keys[0], tokens[0], 60)
    assert [await state(bench, key) for key in keys[1:]] == [State.IN_PROGRESS] * 5


async def test_a_committed_key_is_done_for_its_time(bench: Bench) -> None:
    """A committed key is done for the seconds of the commit, and no longer."""
    token = await begin(bench, seconds=60)
    assert await bench.store.commit(KEY, token, 3600)
    await bench.advance(3590)
    begun = await bench.store.begin(KEY, 60)
    assert begun.state is State.DONE
    assert not begun.token
    assert expires_in(begun, 10)
    await bench.advance(10)
    assert not await bench.store.commit(KEY, token, 3600)
    assert await state(bench) is State.NEW


async def test_an_aborted_key_has_no_mark(bench: Bench) -> None:
    """After an abort the key is new again."""
    token = await begin(bench)
    assert await bench.store.abort(KEY, token)
    assert await begin(bench) != token


async def test_a_mark_in_progress_expires(bench: Bench) -> None:
    """After its seconds the key is new again, and the old token is stale."""
    stale = await begin(bench, seconds=60)
    await bench.advance(60)
    assert not await bench.store.renew(KEY, stale, 60)
    assert not await bench.store.commit(KEY, stale, 60)
    assert not await bench.store.abort(KEY, stale)
    assert await state(bench) is State.NEW


async def test_a_renewed_mark_lasts_from_then_on(bench: Bench) -> None:
    """The seconds count from each renewal."""
    token = await begin(bench, seconds=60)
    for _ in range(3):
        await bench.advance(50)
        assert await bench.store.renew(KEY, token, 60)
    begun = await bench.store.begin(KEY, 60)
    assert begun.state is State.IN_PROGRESS
    assert expires_in(begun, 60)
    assert await bench.store.commit(KEY, token, 60)


async def test_a_stale_token_does_nothing_to_another_mark(bench: Bench) -> None:
    """It cannot renew, commit or abort the mark of another token."""
    stale = await begin(bench, seconds=60)
    await bench.advance(60)
    valid = await begin(bench, seconds=60)
    assert not await bench.store.renew(KEY, stale, 3600)
    assert not await bench.store.commit(KEY, stale, 3600)
    assert not await bench.store.abort(KEY, stale)
    begun = await bench.store.begin(KEY, 60)
    assert begun.state is State.IN_PROGRESS
    assert expires_in(begun, 60)
    assert await bench.store.commit(KEY, valid, 60)


@pytest.mark.parametrize("token", ["", "never given"])
async def test_a_token_that_was_never_given_does_nothing(bench: Bench, token: str) -> None:
    """It has no effect on a key in progress, a done key, or a key without a mark."""
    for key in ("new", "in progress", "done"):
        if key != "new":
            valid = await begin(bench, key)
        if key == "done":
            await bench.store.commit(key, valid, 60)
        assert not await bench.store.renew(key, token, 60)
        assert not await bench.store.commit(key, token, 60)
        assert not await bench.store.abort(key, token)
    assert [await state(bench, key) for key in ("new", "in progress", "done")] == list(State)


async def test_a_done_key_stays_done(bench: Bench) -> None:
    """The token that committed may commit again; it cannot renew or abort."""
    token = await begin(bench)
    assert await bench.store.commit(KEY, token, 60)
    assert await bench.store.commit(KEY, token, 60)
    assert not await bench.store.renew(KEY, token, 3600)
    assert not await bench.store.abort(KEY, token)
    begun = await bench.store.begin(KEY, 60)
    assert begun.state is State.DONE
    assert expires_in(begun, 60)


async def test_of_many_concurrent_begins_one_is_the_first(bench: Bench) -> None:
    """Of a hundred concurrent calls, one gets a token."""
    begun = await asyncio.gather(*(bench.store.begin(KEY, 60) for _ in range(100)))
    states = [each.state for each in begun]
    assert states.count(State.NEW) == 1
    assert states.count(State.IN_PROGRESS) == 99


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "renew", "commit", "abort", "advance"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
    ),
    max_size=25,
)


class Model:
    """The correct state of a store: the holders and the done keys, with their expiry."""

    def __init__(self) -> None:
        self.now = 0.0
        self.marks: dict[str, tuple[str, bool, float]] = {}

    def mark(self, key: str) -> tuple[str, bool, float] | None:
        mark = self.marks.get(key)
        return mark if mark is not None and mark[2] > self.now else None

    def holds(self, key: str, token: str) -> bool:
        mark = self.mark(key)
        return mark is not None and mark[:2] == (token, False)

    def state(self, key: str) -> State:
        mark = self.mark(key)
        if mark is None:
            return State.NEW
        return State.DONE if mark[1] else State.IN_PROGRESS


async def follow(bench: Bench, steps: list[tuple[str, str, int]]) -> None:
    """Take steps with all tokens, including stale ones, and compare with the model."""
    model = Model()
    tokens: dict[str, list[str]] = {"a": [], "b": []}
    for step, key, number in steps:
        seconds = 100.0 * (number + 1)
        if step == "advance":
            await bench.advance(seconds)
            model.now += seconds
        elif step == "begin":
            begun = await bench.store.begin(key, seconds)
            assert begun.state is model.state(key)
            assert bool(begun.token) == (begun.state is State.NEW)
            if begun.token:
                tokens[key].append(begun.token)
                model.marks[key] = (begun.token, False, model.now + seconds)
        elif tokens[key]:
            token = tokens[key][number % len(tokens[key])]
            await _settle(bench.store, model, step, key, token, seconds)
    for key in tokens:
        assert (await bench.store.begin(key, 60)).state is model.state(key)


async def _settle(
    store: Store, model: Model, step: str, key: str, token: str, seconds: float
) -> None:
    valid = model.holds(key, token)
    if step == "renew":
        assert await store.renew(key, token, seconds) is valid
        if valid:
            model.marks[key] = (token, False, model.now + seconds)
    elif step == "commit":
        again = (mark := model.mark(key)) is not None and mark[:2] == (token, True)
        assert await store.commit(key, token, seconds) is (valid or again)
        if valid:
            model.marks[key] = (token, True, model.now + seconds)
    else:
        assert await store.abort(key, token) is valid
        if valid:
            del model.marks[key]


@settings(deadline=None, max_examples=60)
@given(steps=_STEPS)
def test_whatever_happens_a_key_has_one_valid_token(
    open_bench: Any, steps: list[tuple[str, str, int]]
) -> None:
    """In any order of steps one token holds a key, and only that one can commit it."""

    async def run() -> None:
        opened: AbstractAsyncContextManager[Bench] = open_bench()
        async with opened as bench:
            await follow(bench, steps)

    asyncio.run(run())


# Memory


async def test_memory_removes_the_least_recently_used_done_mark() -> None:
    """Beyond its size the store removes the least recently used done marks."""
    store = MemoryStore(size=3)
    for key in "abc":
        await store.commit(key, (await store.begin(key, 60)).token, 60)
    assert (await store.begin("a", 60)).state is State.DONE
    await store.begin("d", 60)
    states = {key: (await store.begin(key, 60)).state for key in "acd"}
    assert states == {"a": State.DONE, "c": State.DONE, "d": State.IN_PROGRESS}
    assert (await store.begin("b", 60)).state is State.NEW


async def test_memory_counts_from_the_last_commit() -> None:
    """A key that expired and was committed again is the most recent one."""
    clock = FakeClock()
    store = MemoryStore(size=3, clock=clock.time)
    for key in "aba":
        await store.commit(key, (await store.begin(key, 60)).token, 60)
        clock.advance(40)
    for key in "cd":
        await store.begin(key, 60)
    assert (await store.begin("a", 60)).state is State.DONE


async def test_memory_keeps_all_marks_in_progress() -> None:
    """Marks in progress are kept, even beyond the size."""
    store = MemoryStore(size=2)
    for key in "abcd":
        await store.begin(key, 60)
    states = [(await store.begin(key, 60)).state for key in "abcd"]
    assert states == [State.IN_PROGRESS] * 4


async def test_memory_expires_on_time() -> None:
    """A mark is valid until its last moment, and not in the next."""
    clock = FakeClock()
    store = MemoryStore(clock=clock.time)
    await store.begin(KEY, 60)
    clock.advance(59.999)
    assert (await store.begin(KEY, 60)).state is State.IN_PROGRESS
    clock.advance(0.001)
    assert (await store.begin(KEY, 60)).state is State.NEW


# Redis


async def _until_new(store: Store) -> None:
    """Begin repeatedly until the mark has expired."""
    async with asyncio.timeout(10):
        while (await store.begin(KEY, 60)).state is not State.NEW:  # noqa: ASYNC110 - Redis's event
            await asyncio.sleep(0)


def _begin_and_be_killed(url: str, prefix: str) -> None:
    """Begin in another process, and kill it."""
    program = f"""
import asyncio
from gizmopy.pubsub.middleware.stores.redis import RedisStore
async def main():
    begun = await RedisStore({url!r}, prefix={prefix!r}).begin({KEY!r}, 60)
    print(begun.state.value, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "new\n"
        process.kill()


async def test_redis_expires_by_its_own_clock(redis_url: str) -> None:
    """A mark expires without a client, and not too early."""
    async with RedisStore(redis_url, prefix=new_id()) as store:
        started = asyncio.get_running_loop().time()
        await store.begin(KEY, 0.2)
        await _until_new(store)
        assert asyncio.get_running_loop().time() - started >= 0.19


async def test_the_mark_of_a_killed_process_expires(redis_url: str) -> None:
    """Others wait for the mark of a killed process until it expires."""
    prefix = new_id()
    _begin_and_be_killed(redis_url, prefix)
    async with Redis.from_url(redis_url) as client:
        store = RedisStore(client, prefix=prefix)
        begun = await store.begin(KEY, 60)
        assert begun.state is State.IN_PROGRESS
        assert expires_in(begun, 60)
        await client.pexpire(prefix + KEY, 50)  # the rest of a minute
        await _until_new(store)


async def test_clients_share_the_marks_in_redis(redis_url: str) -> None:
    """Two clients see one mark."""
    prefix = new_id()
    async with RedisStore(redis_url, prefix=prefix) as one:
        async with RedisStore(redis_url, prefix=prefix) as other:
            token = (await one.begin(KEY, 60)).token
            assert (await other.begin(KEY, 60)).state is State.IN_PROGRESS
            assert await one.commit(KEY, token, 60)
            assert (await other.begin(KEY, 60)).state is State.DONE


async def test_redis_leaves_no_key_without_an_end(redis_url: str) -> None:
    """Every mark expires, and an aborted one is deleted."""
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        bench = RedisBench(client)
        await bench.store.abort("aborted", await begin(bench, "aborted"))
        await bench.store.commit("done", await begin(bench, "done", 0.0001), 60)
        await begin(bench, "in progress")
        await bench.store.renew("renewed", await begin(bench, "renewed"), 60)
        names = [name async for name in client.scan_iter(f"{bench.prefix}*")]
        assert all([await client.pttl(name) > 0 for name in names])
        assert f"{bench.prefix}aborted" not in names


async def test_each_step_is_one_command(redis_url: str) -> None:
    """Begin, renew, commit and abort take one round trip each."""
    async with Redis.from_url(redis_url) as client:
        bench = RedisBench(client)
        before = await _commands(client)
        token = await begin(bench)
        await bench.store.renew(KEY, token, 60)
        await bench.store.commit(KEY, token, 60)
        await bench.store.abort(KEY, token)
        assert await _commands(client) - before == 4


async def _commands(client: Redis) -> int:
    statistics = await client.info("commandstats")
    return int(statistics.get("cmdstat_eval", {"calls": 0})["calls"])


async def test_a_step_that_is_sent_again_is_done_once(redis_url: str) -> None:
    """A client that repeats a command gets the answer of the first one."""
    async with Redis.from_url(redis_url) as client:
        twice = Twice(client)
        store = RedisStore(twice, prefix=new_id())  # type: ignore[arg-type]  # a fake client
        begun = await store.begin(KEY, 60)
        assert begun.state is State.NEW
        assert await store.renew(KEY, begun.token, 60)
        assert await store.commit(KEY, begun.token, 60)
        assert (await store.begin(KEY, 60)).state is State.DONE


class Twice:
    """A client that loses the first answer to everything, and asks again."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def eval(self, *arguments: Any) -> Any:
        await self._client.eval(*arguments)
        return await self._client.eval(*arguments)


async def test_a_cancelled_step_does_not_disturb_the_next(redis_url: str) -> None:
    """The answer to a cancelled call is not taken for that of another call."""
    async with RedisStore(redis_url, prefix=new_id()) as store:
        for turns in range(12):
            call = asyncio.create_task(store.begin(f"cancelled {turns}", 60))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            token = (await store.begin(f"next {turns}", 60)).token
            assert await store.commit(f"next {turns}", token, 60)
            assert (await store.begin(f"next {turns}", 60)).state is State.DONE


async def test_an_unreachable_redis_is_a_transient_error(tmp_path: Path) -> None:
    """Each step reports that Redis failed; when it is back, the same store works."""
    with redis_server(tmp_path) as url:
        async with RedisStore(url) as store:
            token = (await store.begin(KEY, 60)).token
    for step in (
        store.begin(KEY, 60),
        store.renew(KEY, token, 60),
        store.commit(KEY, token, 60),
        store.abort(KEY, token),
    ):
        with pytest.raises(PubSubError, match="Redis failed") as caught:
            await step
        assert caught.value.transient
    await store.aclose()


async def test_a_redis_that_does_not_answer_is_a_transient_error() -> None:
    """A step is bounded in time, even if the connection remains open."""
    writers: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RedisStore(f"redis://127.0.0.1:{port}", timeout=0.01) as store:
            with pytest.raises(PubSubError, match=r"did not answer within 0\.01 s") as caught:
                await store.begin(KEY, 60)
        for writer in writers:
            writer.close()
            await writer.wait_closed()
    assert caught.value.transient


async def test_a_client_that_is_passed_is_not_closed(redis_url: str) -> None:
    """The owner of a client closes it."""
    async with Redis.from_url(redis_url, single_connection_client=True) as client:
        async with RedisStore(client, prefix=new_id()) as store:
            await store.begin(KEY, 60)
        assert client.connection is not None
        assert client.connection.is_connected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("kafka://me:hunter2@host", "kafka://host"),
        ("redis://me:hunter2", "***"),
        ("redis://me:hunter2/0@host", "***"),
        ("redis://me:hun[ter2@host", "redis://host"),
        ("redis://host:6379/0?db=hunter2", "redis://host:6379"),
        ("redis://me:hunter2\udcff@host", "***"),
        ("hunter2", "***"),
    ],
)
def test_a_url_of_another_scheme_is_rejected(url: str, shown: str) -> None:
    """The error shows scheme and host only, or nothing if the URL does not parse."""
    with pytest.raises(UsageError) as caught:
        RedisStore(url)
    assert str(caught.value).startswith(f"{shown!r} is not a URL of Redis; use redis://")
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


async def test_an_error_of_redis_does_not_show_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client's error about a connection may contain the login of the URL."""

    async def fail(*arguments: object) -> None:
        raise RedisError("no login as tom:hunter 2, or hunter%202")

    async with RedisStore("redis://tom:hunter%202@host") as store:
        monkeypatch.setattr(store._redis, "eval", fail)
        with pytest.raises(PubSubError, match="no login as") as caught:
            await store.begin(KEY, 60)
    assert "hunter" not in str(caught.value)


def test_redis_is_imported_by_its_store_alone() -> None:
    """Only the store imports redis; if it is missing, the error names the extra."""
    block = "import sys; sys.modules['redis'] = None\n"
    program = block + "import gizmopy.pubsub.middleware"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    asked = subprocess.run(
        [sys.executable, "-c", block + "import gizmopy.pubsub.middleware.stores.redis"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert "pip install 'gizmopy[redis]'" in asked.stderr
