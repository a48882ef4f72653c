"""Name the threads, tasks and child processes that keep a process from ending."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from gizmopy.observe.places import frames_of, own_place
from gizmopy.observe.tasks import frames_of_task

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_NAMES = 20


def describe_unfinished(loop: asyncio.AbstractEventLoop | None) -> str:
    """Return the names and places of what still runs; ``loop`` has the tasks.

    It is called in a thread of its own, which is not named.
    """
    found = [*_children(), *_threads(), *(() if loop is None else _tasks(loop))]
    more = f", and {len(found) - _NAMES} more" if len(found) > _NAMES else ""
    return ", ".join(islice(found, _NAMES)) + more


def _threads() -> Iterator[str]:
    stacks, main = sys._current_frames(), threading.main_thread()
    for thread in threading.enumerate():
        if thread is main or thread.daemon:
            continue
        yield f"thread {thread.name!r}{_place(stacks.get(thread.ident or 0))}"
    yield f"main thread{_place(stacks.get(main.ident or 0))}"


def _place(innermost: Any) -> str:
    place = own_place(frames_of(innermost))
    return "" if place is None else f" in {place}"


def _tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    for task in asyncio.all_tasks(loop):
        place = own_place(reversed(frames_of_task(task)))
        yield f"task {task.get_name()!r}" + ("" if place is None else f" in {place}")


def _children() -> Iterator[str]:
    for child in _active_children():
        yield f"child process {child.name!r} (pid {child.pid})"


def terminate_children() -> None:
    """Send SIGTERM to the children of multiprocessing.

    Python would end those that are daemonic, and wait for the others. The workers of a process pool
    wait for ever for a parent that has ended.
    """
    for child in _active_children():
        child.terminate()


def _active_children() -> list[BaseProcess]:
    # Not imported here: a service without children does not pay for it.
    module = sys.modules.get("multiprocessing")
    return [] if module is None else module.active_children()
