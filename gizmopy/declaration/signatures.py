"""Read the signature of a method: its parameters and their resolved types."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

from gizmopy.declaration import type_variables
from gizmopy.errors import DeclarationError

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


_UNRESOLVED = (NameError, AttributeError, TypeError, SyntaxError, RecursionError)


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


def read_signature(
    function: Callable[..., Any],
    owner: object = None,
    *,
    may_be_sync: bool = False,
    takes_generator: bool = False,
) -> Signature:
    """Return the signature of an async ``function`` or bound method.

    With ``takes_generator`` it may be an async generator, too.

    The types are those of the class of ``owner``: it may set the type variables of a generic base.
    ``owner`` is the object that has the method; default: the one that it is bound to.

    Raises DeclarationError if it is not async (unless it ``may_be_sync``), if an annotation is
    missing or cannot be resolved, if a type variable has no type, or if a parameter is
    positional-only, ``*args`` or ``**kwargs``.
    """
    if is_generator(function):
        if not takes_generator:
            check_async(function)
    elif not may_be_sync:
        check_async(function)
    owner = getattr(function, "__self__", None) if owner is None else owner
    try:
        definer, values = type_variables.values_of(function, owner)
        hints = _hints(function, definer)
        hints = {name: type_variables.substitute(hint, values) for name, hint in hints.items()}
    except _UNRESOLVED as error:
        reason = f"its annotations cannot be resolved: {error}; import the type in its module"
        raise DeclarationError(function, reason) from error
    try:
        declared = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise DeclarationError(function, "has no parameter for its object; add self") from error
    _check_self(function, hints)
    parameters = []
    for parameter in declared:
        name = parameter.name
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            reason = f"parameter {parameter} cannot be passed by name; declare one that can"
            raise DeclarationError(function, reason)
        if name not in hints:
            reason = f"parameter {name!r} has no type; annotate it"
            raise DeclarationError(function, reason)
        _check_variables(function, owner, f"parameter {name!r}", hints[name])
        parameters.append(Parameter(name, hints[name], parameter.default))
    returns = hints.get("return", REQUIRED)
    _check_variables(function, owner, "the result", returns)
    return Signature(tuple(parameters), returns)


def _check_self(function: Callable[..., Any], hints: Mapping[str, Any]) -> None:
    """Raise DeclarationError if a method without ``self`` takes its object as a parameter."""
    plain = getattr(function, "__func__", None)
    if plain is None:
        return
    name = next(iter(inspect.signature(plain).parameters), "")
    kind = hints.get(name)
    own = getattr(function, "__self__", None)
    # ``def a(x: int)``: a request's x would be ignored, and x be the object.
    is_other = isinstance(kind, type) and kind is not Any and kind not in type(own).__mro__
    is_protocol = getattr(kind, "_is_protocol", False)
    if name not in ("self", "cls") and is_other and not is_protocol and not isinstance(own, type):
        raise DeclarationError(function, f"takes its object as {name!r}; add self ahead of it")


def is_generator(function: Callable[..., Any]) -> bool:
    """Return whether ``function`` is an async generator: it is async and has a ``yield``."""
    return inspect.isasyncgenfunction(function)


def check_async(function: Callable[..., Any]) -> None:
    """Raise DeclarationError if a call of ``function`` does not return a coroutine."""
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner):
        return
    if inspect.isasyncgenfunction(inner):
        reason = "has a 'yield', so it is an async generator; return one value, such as a list"
        raise DeclarationError(function, reason)
    if inspect.iscoroutinefunction(inspect.unwrap(inner)):
        kind = getattr(inner, "__qualname__", None) or type(inner).__name__
        reason = f"is wrapped by {kind}, which is not async; use an async wrapper"
        raise DeclarationError(function, reason)
    if inspect.iscoroutinefunction(getattr(inner, "__call__", None)):  # noqa: B004 - is it async?
        raise DeclarationError(function, "is an object; declare its method __call__ instead")
    raise DeclarationError(function, "is not async; declare it with 'async def'")


def _hints(function: Callable[..., Any], definer: type | None) -> dict[str, Any]:
    """Return the annotations of ``function``, resolved in its module and in its class."""
    while isinstance(function, partial):
        function = function.func
    known = getattr(inspect.unwrap(function), "__globals__", {})
    body: Mapping[str, Any] = vars(definer) if definer is not None else {}
    # A method named ``list`` must not hide the type in ``-> list[int]``.
    names = {
        name: value
        for name, value in body.items()
        if name not in known and not hasattr(builtins, name)
    }
    # The variables of ``class Crud[T]`` are in no module.
    variables = (
        *getattr(definer, "__type_params__", ()),
        *getattr(function, "__type_params__", ()),
    )
    names |= {each.__name__: each for each in variables}
    return get_type_hints(function, localns=names, include_extras=True)


def _check_variables(
    function: Callable[..., Any], owner: object, subject: str, annotation: Any
) -> None:
    """Raise DeclarationError if the type of ``subject`` contains a type variable."""
    variables = type_variables.variables_in(annotation)
    if not variables:
        return
    names = " and ".join(each.__name__ for each in variables)
    kind = owner if isinstance(owner, type) else type(owner)
    if any(each in getattr(kind, "__parameters__", ()) for each in variables):
        name = kind.__name__
        remedy = f"serve a subclass that sets it, such as: class My{name}({name}[SomeType])"
    else:
        remedy = f"replace it by a type, or set it where {kind.__name__} names its generic base"
    shown = getattr(annotation, "__name__", annotation)
    reason = f"{subject} has the type {shown}, and nothing sets the type variable {names}; {remedy}"
    raise DeclarationError(function, reason)
