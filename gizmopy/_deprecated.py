"""Keep a renamed public name importable until the release that removes it.

A module assigns the result to ``__getattr__`` (PEP 562), so that an old name costs nothing until
somebody imports it::

    __getattr__ = renamed(__name__, {"Endpoints": "gizmopy.web:EndpointTable"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any
from warnings import warn

REMOVED_IN = "0.3"
"""The release without the old names."""


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a module's ``__getattr__`` that resolves old names, each with a DeprecationWarning.

    ``names`` maps an old name to its new place, ``package.module:Name``. Any other name raises
    AttributeError, as a module without ``__getattr__`` does.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - a module's __getattr__
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = names[name].partition(":")
        warn(
            f"{module}.{name} is deprecated and ends with gizmopy {REMOVED_IN}: use {place}.{new}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(place), new)

    return __getattr__
