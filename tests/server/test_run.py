"""The choice of the event loop."""

import sys

import pytest

from gizmopy.errors import StartError
from gizmopy.server.run import loop_factory


def test_auto_is_uvloop_if_it_is_installed() -> None:
    """auto uses uvloop if it is installed; asyncio never does."""
    uvloop = pytest.importorskip("uvloop")

    assert loop_factory("auto") is uvloop.new_event_loop
    assert loop_factory("asyncio") is None


def test_an_error_about_uvloop_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvloop, auto uses asyncio, and uvloop is an error with the command to install it."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert loop_factory("auto") is None
    with pytest.raises(StartError, match=r"pip install 'gizmopy\[uvloop\]'"):
        loop_factory("uvloop")
