"""Replace the type variables of a generic class by the types that a subclass sets.

In ``class Crud(Service, Generic[T])`` an endpoint may take an ``item: T``. The value of ``T`` is
an argument of ``class ItemCrud(Crud[Item])``. pydantic would validate a type variable as anything,
or as its bound, and so lose the fields of the item: read_signature refuses one without a value.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import UnionType
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    TypeVarTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel
from typing_extensions import TypeAliasType, Unpack, is_protocol, is_typeddict

Values = Mapping[Any, Any]
"""The types of type variables. One that has no type is absent, or is its own value."""

_VARIABLES = (TypeVar, ParamSpec, TypeVarTuple)
# typing_extensions has its own of both in some versions of Python.
_ALIASES = (TypeAliasType, getattr(typing, "TypeAliasType", TypeAliasType))
_UNPACKS = (Unpack, typing.Unpack)


class ContradictingArguments(TypeError):
    """A class inherits one generic base with different arguments."""


def values_of(function: Callable[..., Any], owner: object) -> tuple[type | None, Values]:
    """Return the class that defines ``function``, and the types of that class's variables.

    ``owner`` is the object, or the class, that has the function as a method; its class sets the
    types. The class is None if ``owner`` has no such method. Raises ContradictingArguments.
    """
    kind = owner if isinstance(owner, type) else type(owner)
    definer = _definer(kind, function)
    if definer is None:
        return None, {}
    own: Values = {}
    # Python sets this attribute of ``Crud[Item]()``, an object of a subscripted class.
    made_as = getattr(owner, "__orig_class__", None)
    if made_as is not None and get_origin(made_as) is kind:
        own = _assign(_parameters(kind), get_args(made_as))
    found: dict[type, Values] = {}
    _collect(kind, _with_defaults(_parameters(kind), own), found)
    return definer, found.get(definer, {})


def values_in(kind: type, base: type) -> Values:
    """Return the types that ``kind`` sets for the variables of ``base``, one of its bases.

    Raises ContradictingArguments.
    """
    found: dict[type, Values] = {}
    _collect(kind, _with_defaults(_parameters(kind), {}), found)
    return found.get(base, {})


def _definer(kind: type, function: Callable[..., Any]) -> type | None:
    """Return the class of ``kind``'s bases whose body has ``function``."""
    wanted: Any = function
    while wanted is not None:
        plain = getattr(wanted, "__func__", wanted)
        for base in kind.__mro__:
            if any(getattr(each, "__func__", each) is plain for each in vars(base).values()):
                return base
        wanted = wanted.func if isinstance(wanted, partial) else getattr(plain, "__wrapped__", None)
    return None


def _parameters(kind: Any) -> tuple[Any, ...]:
    return tuple(getattr(kind, "__parameters__", ()))


def _collect(kind: type, values: Values, found: dict[type, Values]) -> None:
    """Add to ``found`` the values of the variables of ``kind`` and of each of its bases."""
    known = found.get(kind)
    if known is not None and (known == values or not _is_set(values)):
        return
    if known is not None and _is_set(known):
        raise ContradictingArguments(
            f"it inherits {kind.__name__} with {_described(known)} and with {_described(values)}"
        )
    found[kind] = values
    for base in vars(kind).get("__orig_bases__", kind.__bases__):
        origin = get_origin(base) or base
        if origin in (Generic, Protocol) or not isinstance(origin, type):
            continue
        arguments = tuple(_resolved(each, kind) for each in get_args(base))
        arguments = tuple(substitute(each, values) for each in arguments)
        parameters = _parameters(origin)
        _collect(origin, _with_defaults(parameters, _assign(parameters, arguments)), found)


def _is_set(values: Values) -> bool:
    return not any(variables_in(value) for value in values.values())


def _described(values: Values) -> str:
    names = (f"{key.__name__}={getattr(value, '__name__', value)}" for key, value in values.items())
    return ", ".join(names)


def _resolved(argument: Any, kind: type) -> Any:
    """Return the type that an argument in quotes names: ``Crud["Item"]``."""
    if not isinstance(argument, (ForwardRef, str)):
        return argument

    def holder() -> None: ...

    holder.__annotations__ = {"argument": argument}
    names = vars(sys.modules[kind.__module__])
    return get_type_hints(holder, names, dict(vars(kind)), include_extras=True)["argument"]


def _assign(parameters: Sequence[Any], arguments: Sequence[Any]) -> dict[Any, Any]:
    """Return the argument for each parameter; a TypeVarTuple takes all that the others leave."""
    if not arguments:
        return {}
    several = [at for at, each in enumerate(parameters) if isinstance(each, TypeVarTuple)]
    if not several:
        return dict(zip(parameters, arguments, strict=False))
    first = several[0]
    end = len(arguments) - (len(parameters) - first - 1)
    return {
        **dict(zip(parameters[:first], arguments[:first], strict=False)),
        parameters[first]: tuple(arguments[first:end]),
        **dict(zip(parameters[first + 1 :], arguments[end:], strict=False)),
    }


def _with_defaults(parameters: Sequence[Any], values: Values) -> Values:
    """Return a value for each parameter: the one given, else its default (PEP 696), else itself."""
    complete: dict[Any, Any] = {}
    for each in parameters:
        has_default = getattr(each, "has_default", None)
        if each in values:
            complete[each] = values[each]
        elif has_default is not None and has_default():
            complete[each] = substitute(each.__default__, complete)
        else:
            complete[each] = each
    return complete


def substitute(annotation: Any, values: Values) -> Any:
    """Return ``annotation`` with each type variable, or class, in it replaced by its value."""
    if not values:
        return annotation
    if isinstance(annotation, (*_VARIABLES, type)) and annotation in values:
        return values[annotation]
    if (found := _open_parameters(annotation)) and not get_args(annotation):
        return _substitute_open(annotation, found, values)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or origin is Literal or not arguments:
        return annotation
    if origin is Annotated:
        inner = substitute(arguments[0], values)
        return annotation if inner is arguments[0] else Annotated[(inner, *arguments[1:])]
    new = tuple(_substituted(arguments, values))
    if len(new) == len(arguments) and all(map(_is_same, new, arguments)):
        return annotation
    if origin in (Union, UnionType):
        return Union[new]  # noqa: UP007 - made from a tuple
    return origin[new]


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _substituted(arguments: Iterable[Any], values: Values) -> Iterator[Any]:
    for each in arguments:
        if isinstance(each, list):  # the parameters of a Callable
            yield list(_substituted(each, values))
        elif get_origin(each) in _UNPACKS:
            value = values.get(get_args(each)[0], None)
            yield from (each,) if value is None or isinstance(value, TypeVarTuple) else value
        else:
            yield substitute(each, values)


def _substitute_open(annotation: Any, parameters: Sequence[Any], values: Values) -> Any:
    """Return a generic model, or a type alias, with its own variables replaced.

    pydantic returns the class ``Page`` itself for ``Page[T]`` if both have the same ``T``.
    """
    if isinstance(annotation, _ALIASES):
        is_meant = not annotation.__type_params__ and any(each in values for each in parameters)
        return substitute(annotation.__value__, values) if is_meant else annotation
    if not _is_model(annotation) or not any(each in values for each in parameters):
        return annotation
    metadata = annotation.__pydantic_generic_metadata__
    origin, arguments = metadata["origin"] or annotation, metadata["args"] or parameters
    return origin[tuple(substitute(each, values) for each in arguments)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _open_parameters(annotation: Any) -> Sequence[Any]:
    """Return the type variables of a generic class, or of a type alias, that has no arguments."""
    if isinstance(annotation, _ALIASES):
        return annotation.__type_params__ or variables_in(annotation.__value__)
    if _is_model(annotation):
        # BaseModel itself has no such attribute.
        metadata: Mapping[str, Any] = getattr(annotation, "__pydantic_generic_metadata__", {})
        found: Sequence[Any] = metadata.get("parameters", ())
        return found
    # A Protocol declares nothing that pydantic could validate.
    if isinstance(annotation, type) and not is_protocol(annotation) and annotation is not Generic:
        return _parameters(annotation)
    return ()


def _has_default(variable: Any) -> bool:
    has_default = getattr(variable, "has_default", None)
    return has_default is not None and has_default()


def variables_in(annotation: Any) -> list[Any]:
    """Return the type variables without a value in ``annotation``, also in the fields of models."""
    found: list[Any] = []
    visited: list[Any] = []
    rest = [annotation]
    while rest:
        part = rest.pop()
        if isinstance(part, _VARIABLES):
            found += [part] if part not in found else []
        elif not any(part is each for each in visited):
            visited.append(part)
            rest += _parts(part)
    return found


def _parts(annotation: Any) -> list[Any]:
    if isinstance(annotation, list | tuple):
        return list(annotation)
    if get_origin(annotation) is Literal:
        return []
    if arguments := get_args(annotation):
        return list(arguments[:1] if get_origin(annotation) is Annotated else arguments)
    if isinstance(annotation, _ALIASES):
        return list(annotation.__type_params__) or [annotation.__value__]
    if supertype := getattr(annotation, "__supertype__", None):  # a NewType
        return [supertype]
    # pydantic uses the default of a variable in a model that has no arguments.
    without = [each for each in _open_parameters(annotation) if not _has_default(each)]
    return [*without, *_fields(annotation)]


def _fields(kind: Any) -> list[Any]:
    """Return the types of the fields of a model, dataclass, TypedDict or named tuple."""
    if _open_parameters(kind):
        return []
    if _is_model(kind):
        return [field.annotation for field in kind.model_fields.values()]
    if not isinstance(kind, type) or not (
        is_dataclass(kind) or is_typeddict(kind) or hasattr(kind, "_field_defaults")
    ):
        return []
    try:
        hints = get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - pydantic reports a field that cannot be resolved
        return []
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else list(hints)
    return [hints[name] for name in names if name in hints]
