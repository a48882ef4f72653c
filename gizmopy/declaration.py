"""Read what a method declares: its parameters with their resolved types, once, at start.

Endpoints and message handlers are both declared by the signature of an async method. A signature
that cannot be served fails here, before the daemon starts, with the file and line to mend.
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
    """One parameter: its name, its type with every name in it resolved, its default."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Signature:
    """What an async function takes and gives, without ``self``."""

    parameters: tuple[Parameter, ...]
    returns: Any


def read_signature(function: Callable[..., Any]) -> Signature:
    """Return the signature of an async ``function`` or bound method.

    Raises DeclarationError where it is not async, where an annotation is missing or cannot be
    resolved, and where a parameter is positional-only, ``*args`` or ``**kwargs``.
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
            reason = f"parameter {parameter} cannot be given by name; declare plain parameters"
            raise DeclarationError(function, reason)
        if parameter.name not in hints:
            reason = f"parameter {parameter.name!r} has no type; annotate it"
            raise DeclarationError(function, reason)
        parameters.append(Parameter(parameter.name, hints[parameter.name], parameter.default))
    return Signature(tuple(parameters), hints.get("return", REQUIRED))
