"""Old public names: importable until 0.3, with a warning that names the new one."""

from __future__ import annotations

import pytest

from gizmopy import errors
from gizmopy._deprecated import renamed


def test_an_old_name_gives_the_new_object_with_a_warning() -> None:
    """The warning names the old name, the release that removes it, and the new name."""
    get = renamed("gizmopy.old", {"Problem_": "gizmopy.errors:GizmoError"})
    with pytest.warns(
        DeprecationWarning, match=r"gizmopy\.old\.Problem_.*0\.3: use gizmopy\.errors\.GizmoError"
    ):
        assert get("Problem_") is errors.GizmoError


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that never existed raises what a module without aliases raises."""
    get = renamed("gizmopy.old", {})
    with pytest.raises(AttributeError, match=r"module 'gizmopy\.old' has no attribute 'nothing'"):
        get("nothing")
