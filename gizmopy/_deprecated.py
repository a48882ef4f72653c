"""Keep a renamed public name importable until the release that removes it.

A module assigns the result to ``__getattr__`` (PEP 562), so that an old name costs nothing until it
is imported::

    __getattr__ = renamed(__name__, {"Endpoints": "gizmopy.web:EndpointTable"})

A class assigns the result of ``renamed_method`` to the old name of a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar
from warnings import warn

P = ParamSpec("P")
R = TypeVar("R")

REMOVED_IN = "0.3"
"""The release without the old names."""


def renamed(
    module: str, names: Mapping[str, str], remarks: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str], Any]:
    """Make a module's ``__getattr__`` that resolves old names, each with a DeprecationWarning.

    ``names`` maps an old name to its new place, ``package.module:Name``, and ``remarks`` to more
    text for its warning. Any other name raises AttributeError, as a module without ``__getattr__``
    does.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - a module's __getattr__
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = names[name].partition(":")
        message = (
            f"{module}.{name} is deprecated and ends with gizmopy {REMOVED_IN}: use {place}.{new}"
            f"{remarks.get(name, '')}"
        )
        warn(message, DeprecationWarning, stacklevel=2)
        return getattr(import_module(place), new)

    return __getattr__


def renamed_method(old: str, remedy: str, function: Callable[P, R]) -> Callable[P, R]:
    """Make the method with the old name ``old``: it calls ``function``, with a DeprecationWarning.

    ``remedy`` says what to use instead of it.
    """

    @wraps(function)
    def method(*args: P.args, **kwargs: P.kwargs) -> R:
        message = f"{old} is deprecated and ends with gizmopy {REMOVED_IN}: {remedy}"
        warn(message, DeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return method


def override(kind: type, base: type, name: str, remedy: str) -> Callable[..., Any] | None:
    """Return the method ``name`` of ``kind``, with a DeprecationWarning; None if it is ``base``'s.

    A subclass may override a method whose name is old; the override counts as long as the name.
    """
    owner = next(each for each in kind.__mro__ if name in vars(each))
    if owner is base:
        return None
    message = f"{owner.__qualname__}.{name} is not called from gizmopy {REMOVED_IN} on: {remedy}"
    warn(message, DeprecationWarning, stacklevel=3)
    own: Callable[..., Any] = getattr(kind, name)
    return own
