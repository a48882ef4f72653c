"""Dump the stack of every asyncio task, and the tasks that it awaits, as Go dumps goroutines.

A dump has places in the code and the names of tasks, and no values, which may be secrets.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any, NamedTuple

from gizmopy.observe.places import Frame

MAX_TASKS = 5_000
"""The limit on the tasks of a snapshot."""

_CHUNK = 100
"""Other tasks run after this many were read: 1 to 2 ms, with stacks of ten awaits."""

_NAMES = 10
"""The number of tasks of one stack that the text names."""

_LINKS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))

_WRAPPERS = frozenset(
    (
        "FutureIter",
        "anext_awaitable",
        "async_generator_asend",
        "async_generator_athrow",
        "coroutine_wrapper",
    )
)
"""C types that wrap an awaitable in no attribute: it is the first object that they refer to."""


class Member(NamedTuple):
    """One task of a stack."""

    name: str
    waits_for: tuple[str, ...]
    """The names of the tasks that it awaits, directly or through ``asyncio.gather``."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The tasks that are in the same state at the same place."""

    state: str
    """``running``, ``waiting``, ``ready`` (to continue in its next turn) or ``not started``."""
    cancelled: bool
    """Whether it was cancelled and has not ended."""
    frames: tuple[Frame, ...]
    """The coroutine of the task, the awaitable that it awaits, and so on."""
    tasks: list[Member]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tasks of a loop, grouped by stack, the largest group first."""

    total: int
    """The number of tasks, with those that are left out."""
    truncated: bool
    """Whether some were left out, at random, because there were more than ``MAX_TASKS``."""
    stacks: list[Stack]


async def snapshot() -> Snapshot:
    """Return the stacks of the running loop's tasks.

    Tasks run in between, so many tasks are not all read at the same moment.
    """
    tasks = asyncio.all_tasks()
    stacks: dict[tuple[object, ...], Stack] = {}
    chosen = islice(tasks, MAX_TASKS)
    while chunk := list(islice(chosen, _CHUNK)):
        for task in chunk:
            if not task.done():  # it may have ended in the pause between two chunks
                stack, member = _read(task)
                key = (stack.state, stack.cancelled, stack.frames)
                stacks.setdefault(key, stack).tasks.append(member)
        await asyncio.sleep(0)
    largest_first = sorted(stacks.values(), key=lambda stack: (-len(stack.tasks), stack.frames))
    return Snapshot(len(tasks), len(tasks) > MAX_TASKS, largest_first)


def frames_of_task(task: asyncio.Task[Any]) -> list[Frame]:
    """Return the places of its stack: its coroutine, the awaitable that it awaits, and so on."""
    return _walk(task.get_coro())[0]


def _read(task: asyncio.Task[Any]) -> tuple[Stack, Member]:
    coroutine = task.get_coro()
    frames, awaited = _walk(coroutine)
    if task is asyncio.current_task():
        state = "running"
    # A coroutine that has not started is the only one that neither runs nor is suspended.
    elif not getattr(coroutine, "cr_suspended", True):
        state = "not started"
    elif awaited is None or (asyncio.isfuture(awaited) and awaited.done()):
        state = "ready"
    else:
        state = "waiting"
    stack = Stack(state, task.cancelling() > 0, tuple(frames), [])
    return stack, Member(task.get_name(), tuple(_names(awaited)))


def _walk(awaitable: Any) -> tuple[list[Frame], Any]:
    """Return the chain of awaits, and the future at its end; None after ``sleep(0)``."""
    frames: list[Frame] = []
    while not asyncio.isfuture(awaitable):
        frame, inner = _step(awaitable)
        if frame is not None:
            code = frame.f_code
            frames.append(Frame(code.co_qualname, code.co_filename, frame.f_lineno or 0))
        elif inner is None:
            kind = type(awaitable)
            frames.append(Frame(f"{kind.__module__}.{kind.__qualname__}", "", 0))
            return frames, awaitable
        if inner is None:
            return frames, None
        awaitable = inner
    return frames, awaitable


def _step(awaitable: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of ``awaitable`` and the object that it awaits; None for each it lacks."""
    for frame, link in _LINKS:
        if hasattr(awaitable, link):
            return getattr(awaitable, frame), getattr(awaitable, link)
    if type(awaitable).__name__ in _WRAPPERS:
        held = (each for each in gc.get_referents(awaitable) if not isinstance(each, type))
        return None, next(held, None)
    return None, None


def _names(awaited: Any) -> Iterator[str]:
    # The future of asyncio.gather has no public attribute with the futures that it gathers.
    for each in (awaited, *getattr(awaited, "_children", ())):
        if isinstance(each, asyncio.Task) and not each.done():
            yield each.get_name()


def as_data(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as dicts and lists, ready for JSON."""
    return {
        "total": snapshot.total,
        "truncated": snapshot.truncated,
        "stacks": [
            {
                "count": len(stack.tasks),
                "state": stack.state,
                "cancelled": stack.cancelled,
                "frames": [frame._asdict() for frame in stack.frames],
                "tasks": [member._asdict() for member in stack.tasks],
            }
            for stack in snapshot.stacks
        ],
    }


def as_text(snapshot: Snapshot) -> str:
    """Return a snapshot as text: a paragraph for each stack, with the deepest await last."""
    shown = sum(len(stack.tasks) for stack in snapshot.stacks)
    title = f"{_count(shown, 'task')} in {_count(len(snapshot.stacks), 'stack')}"
    if snapshot.truncated:
        title += f"; TRUNCATED: {MAX_TASKS} of {snapshot.total} tasks were read"
    return "\n\n".join((title, *map(_paragraph, snapshot.stacks))) + "\n"


def _paragraph(stack: Stack) -> str:
    title = f"{_count(len(stack.tasks), 'task')} {stack.state}"
    title += ", cancelled" if stack.cancelled else ""
    width = max((len(frame.function) for frame in stack.frames), default=0)
    lines = (
        f"    {frame.function:<{width}}  {frame.file}:{frame.line}"
        if frame.file
        else f"    {frame.function}"
        for frame in stack.frames
    )
    return "\n".join((f"{title}: {_listed(map(_member, stack.tasks))}", *lines))


def _member(member: Member) -> str:
    waits_for = f" → {_listed(map(repr, member.waits_for))}" if member.waits_for else ""
    return f"{member.name!r}{waits_for}"


def _listed(items: Iterator[str]) -> str:
    shown = list(islice(items, _NAMES))
    rest = sum(1 for _ in items)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
