"""Read the signature of a method once, at start: its parameters and their resolved types.

An endpoint and a message handler are both declared by the signature of an async method. An
unsupported signature raises an error with its file and line before the daemon starts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from gizmopy.errors import DeclarationError

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its name, its resolved type and its default."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of an async function without ``self``, and the type of its result."""

    parameters: tuple[Parameter, ...]
    returns: Any


def read_signature(function: Callable[..., Any]) -> Signature:
    """Return the signature of an async ``function`` or bound method.

    Raises DeclarationError if it is not async, if an annotation is missing or cannot be resolved,
    or if a parameter is positional-only, ``*args`` or ``**kwargs``.
    """
    if not inspect.iscoroutinefunction(function):
        raise DeclarationError(function, "is not async; declare it with 'async def'")
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        reason = f"its annotations cannot be resolved: {error}; import the type in its module"
        raise DeclarationError(function, reason) from error
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            reason = f"parameter {parameter} cannot be passed by name; declare one that can"
            raise DeclarationError(function, reason)
        if parameter.name not in hints:
            reason = f"parameter {parameter.name!r} has no type; annotate it"
            raise DeclarationError(function, reason)
        parameters.append(Parameter(parameter.name, hints[parameter.name], parameter.default))
    return Signature(tuple(parameters), hints.get("return", REQUIRED))
