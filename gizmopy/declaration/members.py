"""Mark the methods of a class, and find the marked methods of an object.

A declaration is never lost in silence. It is found, or the start ends with the places of both
definitions: Python itself keeps only one attribute of each name.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

from gizmopy.errors import DeclarationError, source_of

_RECORD = "__gizmo_declared__"
_MAX_FRAMES = 20

Definition = tuple[type, Any]
"""A class, and the member of some name in its body."""


class DeclaredMethod(NamedTuple):
    """A method of an object, by name, and the marks that are in force for it."""

    name: str
    function: Callable[..., Any]
    marks: Sequence[Any]


def add_mark(function: Any, attribute: str, mark: Any) -> None:
    """Put ``mark`` ahead of the other marks in ``attribute`` of a function or static method.

    Python applies decorators from the bottom up, so the marks are in the order of the source.
    Raises DeclarationError if ``function`` cannot be marked.
    """
    try:
        setattr(function, attribute, (mark, *_own_marks(function, attribute)))
    except AttributeError as error:
        reason = f"is a {type(function).__name__}; decorate an async method"
        raise DeclarationError(function, reason) from error
    body = _class_body(function)
    if body is not None:
        body.setdefault(_RECORD, []).append((attribute, mark, function))


def _class_body(function: Any) -> MutableMapping[str, Any] | None:
    """Return the namespace of the class whose body defines ``function`` at this moment.

    A function that a later one of the same name replaces, or that another decorator hides, is in no
    class when the class is complete. Only the class body, while it runs, knows that it existed.
    """
    name = getattr(getattr(function, "__func__", function), "__qualname__", "")
    owner = name.rpartition(".")[0]
    frame = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        is_class_body = not frame.f_code.co_flags & inspect.CO_OPTIMIZED
        if is_class_body and owner and frame.f_locals.get("__qualname__") == owner:
            return frame.f_locals
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def declared_methods(owner: object, attribute: str) -> Iterator[DeclaredMethod]:
    """Yield each marked method of ``owner``, in the order of the source, base classes first.

    A method that overrides another takes over its marks, unless it is marked itself; an attribute
    None removes them. Raises DeclarationError if a mark would be lost, or would belong to a method
    of an unrelated class.
    """
    kind = type(owner)
    _check_record(kind, attribute)
    names: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        names |= {name: None for name, member in vars(base).items() if _marks(member, attribute)}
    _check_attributes(owner, names, attribute)
    for name in names:
        definitions = [(base, vars(base)[name]) for base in kind.__mro__ if name in vars(base)]
        marks = _marks_in_force(kind, name, definitions, attribute)
        if definitions[0][1] is None:
            continue
        method = getattr(owner, name)
        if not callable(method):
            hidden = next(each for _, each in definitions if _marks(each, attribute))
            where = "in __init__" if name in getattr(owner, "__dict__", ()) else "in a subclass"
            reason = f"is hidden by the attribute {name!r}, set {where}; rename one of them"
            raise DeclarationError(hidden, reason)
        yield DeclaredMethod(name, method, marks)


def _own_marks(member: Any, attribute: str) -> tuple[Any, ...]:
    found = getattr(member, attribute, ())
    return found if isinstance(found, tuple) else ()


def _marks(member: Any, attribute: str) -> tuple[Any, ...]:
    """Return the marks of a member of a class, on it or on the function that it contains."""
    marks = _own_marks(member, attribute)
    inner = getattr(member, "__func__", None)  # a static or class method wraps one
    known = [id(mark) for mark in marks]
    return (*marks, *(each for each in _own_marks(inner, attribute) if id(each) not in known))


def _check_record(kind: type, attribute: str) -> None:
    """Raise DeclarationError if a marked function is not in the class whose body marked it."""
    for base in kind.__mro__:
        kept = {id(mark) for each in vars(base).values() for mark in _marks(each, attribute)}
        for marked, mark, function in vars(base).get(_RECORD, ()):
            if marked == attribute and id(mark) not in kept:
                raise DeclarationError(function, _reason_of_loss(base, function))


def _reason_of_loss(kind: type, function: Any) -> str:
    name = getattr(function, "__name__", "")
    if name not in vars(kind):
        return f"is not in the class {kind.__name__} under its name; remove its decorator"
    other = vars(kind)[name]
    if getattr(other, "__qualname__", None) == getattr(function, "__qualname__", ""):
        return f"is replaced by {source_of(other)}, which has the same name; rename one of them"
    return (
        f"its declaration is lost, because {name!r} is now {source_of(other)}; put the decorator "
        "that declares it above all others, or let the others use functools.wraps"
    )


def _check_attributes(owner: object, names: dict[str, None], attribute: str) -> None:
    """Raise DeclarationError if an attribute of the object itself has marks of its own."""
    found = [
        mark
        for base in type(owner).__mro__
        for member in vars(base).values()
        for mark in _marks(member, attribute)
    ]
    for name, value in getattr(owner, "__dict__", {}).items():
        if name not in names and any(
            all(mark is not each for each in found) for mark in _marks(value, attribute)
        ):
            reason = f"is set as the attribute {name!r} of an object; define it in the class"
            raise DeclarationError(value, reason)


def _marks_in_force(
    kind: type, name: str, definitions: Sequence[Definition], attribute: str
) -> Sequence[Any]:
    """Return the marks of ``name``. Raises DeclarationError if unrelated classes define it."""
    nearest, member = definitions[0]
    own = _marks(member, attribute)
    for base, other in definitions[1:]:
        if base not in nearest.__mro__ and not _may_hide(
            definitions, (base, other), attribute, is_marked=bool(own)
        ):
            place = member if callable(member) or hasattr(member, "__func__") else nearest
            raise DeclarationError(place, _conflict(kind, name, base, other))
    if own:
        return own
    marked = [(base, marks) for base, each in definitions if (marks := _marks(each, attribute))]
    base, marks = marked[0]
    for other_base, _ in marked[1:]:
        if other_base not in base.__mro__ and member is not None:
            first, second = vars(base)[name], vars(other_base)[name]
            reason = f"overrides both {source_of(first)} and {source_of(second)}; decorate it"
            raise DeclarationError(member, reason)
    return marks


# Inheritance is looked up in the MRO. issubclass would also count classes that an ABC registers,
# and raises TypeError for a Protocol.


def _may_hide(
    definitions: Sequence[Definition], hidden: Definition, attribute: str, *, is_marked: bool
) -> bool:
    """Return whether the nearest definition may hide one of a class that it does not inherit."""
    base, other = hidden
    if _marks(other, attribute):
        return False
    if getattr(other, "__isabstractmethod__", False) or getattr(base, "_is_protocol", False):
        return True
    # Two overrides of one declaration: Python calls the first, which may call the second.
    nearest = definitions[0][0]
    return not is_marked and any(
        common in nearest.__mro__ and common in base.__mro__ and _marks(each, attribute)
        for common, each in definitions
    )


def _conflict(kind: type, name: str, base: type, other: Any) -> str:
    hidden = source_of(other) if callable(other) or hasattr(other, "__func__") else repr(other)
    return (
        f"hides {name!r} of {base.__name__}, an unrelated base of {kind.__name__}: {hidden}; "
        f"rename one of them, or define {name!r} in {kind.__name__}"
    )


def undeclared_functions(owners: Iterable[object], attributes: Iterable[str]) -> Iterator[Any]:
    """Yield each marked function of the modules of ``owners`` that no class of them has.

    A decorated function beside a service declares nothing, because only methods are collected.
    """
    kinds = {kind for owner in owners for kind in type(owner).__mro__}
    modules = {
        kind.__module__: None for kind in kinds if not f"{kind.__module__}.".startswith("gizmopy.")
    }
    marks = tuple(attributes)
    for name in modules:
        members = list(vars(sys.modules.get(name, object)).values())
        classes = [*kinds, *(each for each in members if isinstance(each, type))]
        methods = {id(_plain(each)) for kind in classes for each in vars(kind).values()}
        for each in members:
            is_marked = inspect.isfunction(each) and any(_own_marks(each, at) for at in marks)
            if is_marked and each.__module__ == name and id(_plain(each)) not in methods:
                yield each


def _plain(member: Any) -> Any:
    return getattr(member, "__func__", member)
