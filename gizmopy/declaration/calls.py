"""Report a wrong call of a decorator with the place of the method that it decorates."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from gizmopy.errors import DeclarationError

P = ParamSpec("P")
R = TypeVar("R")

_UNKNOWN = "unexpected keyword argument"


def reports_wrong_calls(
    example: str,
    options: Iterable[str] = (),
    *,
    reserved: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a decorator raise DeclarationError for arguments that it does not have.

    Python raises a TypeError without the place of the method, at a line of gizmopy. ``example`` is
    a right call; ``options`` are the keywords, by default those of the signature. ``reserved`` has
    keywords that a later version takes, with the reason and the remedy.
    """

    def wrap(decorator: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(decorator)
        known = tuple(options) or tuple(
            each.name for each in signature.parameters.values() if each.kind is each.KEYWORD_ONLY
        )

        @functools.wraps(decorator)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
                extra = bound.kwargs.keys() - {*known, *signature.parameters}
                if not extra:
                    return decorator(*args, **kwargs)
                why = f"got an unexpected keyword argument '{min(extra)}'"
            except TypeError as error:
                why = str(error)

            def refuse(function: Any) -> Any:
                reason = (
                    f"is decorated with wrong arguments: {_remedy(why, known, example, reserved)}"
                )
                raise DeclarationError(function, reason)

            return refuse  # type: ignore[return-value]  # a decorator returns a decorator

        return call

    return wrap


def _remedy(why: str, known: Iterable[str], example: str, reserved: Mapping[str, str]) -> str:
    if _UNKNOWN not in why:
        return f"{why}; write {example}"
    name = why.rpartition(_UNKNOWN)[2].strip(" '")
    if name in reserved:
        return f"{name}= is reserved: {reserved[name]}"
    # dead_letter and deadletter, timeout and time_out
    plain = {each.replace("_", ""): each for each in known}
    near = difflib.get_close_matches(name.replace("_", ""), list(plain), 1)
    if near:
        return f"there is no option {name}=; write {plain[near[0]]}="
    return f"there is no option {name}=; use one of: {', '.join(sorted(known))}"
