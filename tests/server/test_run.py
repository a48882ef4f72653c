"""The event loop that a daemon runs on, and what is said where it cannot be had."""

import sys

import pytest

from gizmopy.errors import StartError
from gizmopy.server.run import loop_factory


def test_uvloop_is_taken_where_it_is_installed() -> None:
    """auto takes uvloop where there is one; asyncio never does."""
    uvloop = pytest.importorskip("uvloop")

    assert loop_factory("auto") is uvloop.new_event_loop
    assert loop_factory("asyncio") is None


def test_a_missing_extra_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvloop, auto does without; asked for by name, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert loop_factory("auto") is None
    with pytest.raises(StartError, match=r"pip install 'gizmopy\[uvloop\]'"):
        loop_factory("uvloop")
