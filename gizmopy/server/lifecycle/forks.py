"""Run code around ``os.fork``: a child has copies of the parent's signals, sockets and timers."""

from __future__ import annotations

import os
from collections.abc import Callable
from weakref import WeakMethod

_Method = Callable[[], None]


def around_forks(
    *,
    before: _Method | None = None,
    in_parent: _Method | None = None,
    in_child: _Method | None = None,
) -> None:
    """Call these bound methods at each fork, as long as their objects exist.

    ``os.register_at_fork`` has no opposite, and would keep the objects for ever.
    """
    methods = {"before": before, "after_in_parent": in_parent, "after_in_child": in_child}
    os.register_at_fork(**{name: _weak(each) for name, each in methods.items() if each is not None})


def _weak(method: _Method) -> _Method:
    reference = WeakMethod(method)

    def call() -> None:
        if (found := reference()) is not None:
            found()

    return call
