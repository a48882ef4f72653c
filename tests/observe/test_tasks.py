"""The dump of asyncio tasks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gizmopy.observe import tasks
from gizmopy.observe.tasks import Snapshot, Stack, as_data, as_text, snapshot


@asynccontextmanager
async def running(
    *coroutines: Coroutine[Any, Any, object], turns: int = 3
) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Run coroutines as tasks named after their place, for some turns of the loop."""
    made = [asyncio.create_task(each, name=f"t{n}") for n, each in enumerate(coroutines)]
    for _ in range(turns):
        await asyncio.sleep(0)
    try:
        yield made
    finally:
        for task in made:
            task.cancel()
        await asyncio.gather(*made, return_exceptions=True)


def stack_of(name: str, seen: Snapshot) -> Stack:
    """Return the stack of the task ``name``."""
    return next(each for each in seen.stacks if name in [task.name for task in each.tasks])


def functions(name: str, seen: Snapshot) -> list[str]:
    """Return the functions in the stack of the task ``name``, the deepest last."""
    return [frame.function for frame in stack_of(name, seen).frames]


async def _forever() -> None:
    await asyncio.Event().wait()


async def _through() -> None:
    await _forever()


async def _generator() -> AsyncIterator[int]:
    await _forever()
    yield 1


async def _iterate() -> None:
    async for _ in _generator():
        pass


async def _with_default() -> None:
    await anext(_generator(), None)


async def _enter() -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        await _forever()
        yield

    async with opened():
        pass


async def _close() -> None:
    async def held() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await _forever()

    held_open = held()
    await anext(held_open)
    await held_open.aclose()  # type: ignore[attr-defined]  # typeshed declares another type


class Waiting:
    def __await__(self) -> Generator[Any, Any, None]:
        return _forever().__await__()


async def _through_await_method() -> None:
    await Waiting()


@pytest.mark.parametrize(
    ("coroutine", "above"),
    [
        (_forever, []),
        (_through, ["_through"]),
        (_iterate, ["_iterate", "_generator"]),
        (_with_default, ["_with_default", "_generator"]),
        (
            _enter,
            ["_enter", "_AsyncGeneratorContextManager.__aenter__", "_enter.<locals>.opened"],
        ),
        (_close, ["_close", "_close.<locals>.held"]),
        (_through_await_method, ["_through_await_method"]),
    ],
)
async def test_the_chain_of_awaits_is_shown(coroutine: Any, above: list[str]) -> None:
    """It reaches the deepest await, also through generators and C wrappers."""
    async with running(coroutine()):
        assert functions("t0", await snapshot()) == [*above, "_forever", "Event.wait"]


async def test_a_frame_has_file_and_line() -> None:
    """The line is that of the await."""
    async with running(_forever()):
        frame = stack_of("t0", await snapshot()).frames[0]
    assert frame.file == __file__
    assert frame.line == _forever.__code__.co_firstlineno + 1


async def test_equal_stacks_are_grouped() -> None:
    """Tasks at the same place are one stack, and the largest comes first."""
    async with running(_through(), _forever(), _forever(), _forever()):
        seen = await snapshot()
    assert sorted(task.name for task in seen.stacks[0].tasks) == ["t1", "t2", "t3"]
    assert seen.total == sum(len(stack.tasks) for stack in seen.stacks)
    assert not seen.truncated


async def test_the_task_that_takes_the_snapshot_is_running() -> None:
    """Every other task is not."""
    me = asyncio.current_task()
    assert me is not None
    assert stack_of(me.get_name(), await snapshot()).state == "running"


async def test_a_new_task_is_not_started() -> None:
    """A task that had no turn yet is not started."""
    async with running(_forever(), turns=0):
        assert stack_of("t0", await snapshot()).state == "not started"


async def _give_way() -> None:
    while True:  # noqa: ASYNC110 -- it only yields
        await asyncio.sleep(0)


async def test_a_task_in_sleep_0_is_ready() -> None:
    """It waits only for its turn; the stack has the place of the sleep."""
    async with running(_give_way()):
        seen = await snapshot()
    assert stack_of("t0", seen).state == "ready"
    assert functions("t0", seen)[:2] == ["_give_way", "sleep"]


async def test_a_task_whose_future_is_done_is_ready() -> None:
    """A task whose future is done continues in its next turn."""
    event = asyncio.Event()
    async with running(event.wait()):
        event.set()
        assert stack_of("t0", await snapshot()).state == "ready"


async def _stubborn() -> None:
    try:
        await _forever()
    except asyncio.CancelledError:
        await _forever()


async def test_a_task_that_ignores_its_cancellation_is_marked() -> None:
    """It is waiting, and cancelled."""
    async with running(_stubborn(), _forever()) as (task, _):
        task.cancel()
        await asyncio.sleep(0)
        seen = await snapshot()
    assert (stack_of("t0", seen).state, stack_of("t0", seen).cancelled) == ("waiting", True)
    assert not stack_of("t1", seen).cancelled
    assert "1 task waiting, cancelled: 't0'" in as_text(seen)


async def _wait_for_all(*awaited: Awaitable[object]) -> None:
    await asyncio.gather(*awaited)


async def _wait_for(awaited: Awaitable[object]) -> None:
    await awaited


async def test_a_task_shows_the_tasks_that_it_awaits() -> None:
    """One task, or several by gather, are named; those that are done are not."""
    async with running(_forever(), _forever(), asyncio.sleep(0)) as (first, second, done):
        async with running(_wait_for(first), _wait_for_all(first, second, done)) as waiting:
            waiting[0].set_name("one")
            waiting[1].set_name("all")
            seen = await snapshot()
    waits_for = {task.name: task.waits_for for stack in seen.stacks for task in stack.tasks}
    assert waits_for["one"] == ("t0",)
    assert waits_for["all"] == ("t0", "t1")
    assert "'all' → 't0', 't1'" in as_text(seen)


class Foreign:
    """An awaitable that yields without a future, as C code may."""

    def __await__(self) -> Iterator[None]:
        return self

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        return None


async def _wait_for_foreign() -> None:
    await Foreign()  # type: ignore[misc]  # any iterator will do; typeshed asks for a generator


async def test_an_awaitable_without_a_frame_is_shown_by_its_type() -> None:
    """It has no place in the code."""
    async with running(_wait_for_foreign()):
        seen = await snapshot()
    last = stack_of("t0", seen).frames[-1]
    assert last == (f"{__name__}.Foreign", "", 0)
    assert f"    {__name__}.Foreign\n" in as_text(seen)


async def test_too_many_tasks_are_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, only that many tasks are read, and the dump says so."""
    monkeypatch.setattr(tasks, "MAX_TASKS", 5)
    async with running(*(_forever() for _ in range(8))):
        seen = await snapshot()
    everyone = len(asyncio.all_tasks()) + 8
    assert (seen.total, seen.truncated) == (everyone, True)
    assert sum(len(stack.tasks) for stack in seen.stacks) == 5
    title = as_text(seen).partition("\n")[0]
    assert title.endswith(f"; TRUNCATED: 5 of {everyone} tasks were read")


async def test_other_tasks_run_between_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ends between two chunks is left out."""
    monkeypatch.setattr(tasks, "_CHUNK", 10)
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    async with running(*(event.wait() for _ in range(50)), turns=0):
        seen = await snapshot()
    assert sum(len(stack.tasks) for stack in seen.stacks) < 50 < seen.total


async def test_the_text_is_readable() -> None:
    """A paragraph has a title with the names, and its frames in columns."""
    async with running(_through(), _through()):
        seen = await snapshot()
    waiting = stack_of("t0", seen)
    wait = waiting.frames[-1]
    line = _forever.__code__.co_firstlineno + 1
    text = as_text(Snapshot(2, False, [waiting]))
    names = ", ".join(repr(task.name) for task in waiting.tasks)
    assert text == (
        "2 tasks in 1 stack\n"
        "\n"
        f"2 tasks waiting: {names}\n"
        f"    _through    {__file__}:{line + 4}\n"
        f"    _forever    {__file__}:{line}\n"
        f"    Event.wait  {wait.file}:{wait.line}\n"
    )


async def test_the_text_names_only_some() -> None:
    """Of a large stack ten tasks are named, and the others are counted."""
    async with running(*(_forever() for _ in range(13))):
        text = as_text(await snapshot())
    (title,) = (line for line in text.splitlines() if line.startswith("13 tasks waiting"))
    assert title.count("'t") == 10
    assert title.endswith(" and 3 more")


async def test_a_name_cannot_forge_a_line() -> None:
    """A line break in a task's name is escaped."""
    async with running(_forever()) as (task,):
        task.set_name("a\n0 tasks")
        assert "\n0 tasks" not in as_text(await snapshot())


async def test_the_data_has_all_tasks() -> None:
    """In JSON a stack has its count, its frames and every task."""
    async with running(_forever()):
        seen = await snapshot()
    (stack,) = (each for each in as_data(seen)["stacks"] if each["state"] == "waiting")
    assert stack["count"] == 1
    assert stack["frames"][0]["function"] == "_forever"
    assert stack["tasks"] == [{"name": "t0", "waits_for": ()}]
