"""Run the tests that depend on the event loop on both loops."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of a module with ``BOTH_LOOPS = True`` on each loop."""
    module = item.getparent(pytest.Module)
    both = module is not None and getattr(module.obj, "BOTH_LOOPS", False)
    return _LOOPS if both else {"asyncio": _LOOPS["asyncio"]}
