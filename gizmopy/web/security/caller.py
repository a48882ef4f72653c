"""The parameter of an endpoint that takes the caller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from typing_extensions import is_protocol, is_typeddict

from gizmopy.web.annotations import UNIONS, alias_target

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallerMark:
    """Marks a parameter as the caller."""


Caller = Annotated[T, CallerMark()]
"""Take the caller of a request: ``async def me(self, user: Caller[User]) -> User``.

The value is the result of the checker that let the request pass. An endpoint whose security scheme
cannot give such a value ends the start.
"""

REFUSING = (NoneType, Literal[False])
"""The results by which a checker refuses."""


def is_caller(annotation: Any) -> bool:
    """Return whether a parameter is the caller."""
    return get_origin(annotation) is Annotated and any(
        isinstance(each, CallerMark) for each in annotation.__metadata__
    )


def members(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the one type, without metadata and names of aliases."""
    if annotation is None:
        yield NoneType
    elif get_origin(annotation) is Annotated:
        yield from members(get_args(annotation)[0])
    elif get_origin(annotation) in UNIONS:
        for each in get_args(annotation):
            yield from members(each)
    elif getattr(annotation, "__value__", None) is not None:  # not a NewType: it is a type
        yield from members(annotation.__value__)
    else:
        yield annotation


def is_accepted(returned: Any, declared: Any) -> bool:
    """Return whether a parameter of the type ``declared`` may get a value of ``returned``."""
    accepted = list(members(declared))
    return all(any(_fits(each, other) for other in accepted) for each in members(returned))


def _fits(returned: Any, declared: Any) -> bool:
    if returned == declared or returned is Any or declared in (Any, object):
        return True
    if get_origin(returned) is Literal:
        return all(_fits(type(value), declared) for value in get_args(returned))
    if (supertype := alias_target(returned)) is not None:
        return _fits(supertype, declared)
    returned, declared = (get_origin(each) or each for each in (returned, declared))
    if is_protocol(declared):
        return True
    if is_typeddict(declared):
        return False
    classes = isinstance(returned, type) and isinstance(declared, type)
    return classes and issubclass(returned, declared)
