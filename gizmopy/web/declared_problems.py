"""Declare which problems endpoints answer with: the statuses, and the problem of an exception."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gizmopy.errors import DeclarationError
from gizmopy.web.problems import Problem

ProblemMaker = int | Problem | Callable[[Any], Problem]
"""The problem of an exception: a status, a problem that is the same each time, or a function."""

ProblemTable = Mapping[type[Exception], ProblemMaker]
"""The problem of each exception. Of a subclass that has none it is that of the nearest base."""

ProblemOption = Sequence[int | type[Exception]]
"""The problems of one endpoint in the OpenAPI document: statuses, and exceptions of the table."""

_TOO_WIDE = (BaseException, Exception)
_ANSWERS = (Problem, web.HTTPException)


@dataclass(frozen=True, slots=True)
class Problems:
    """The table of exceptions that applies to an endpoint."""

    table: ProblemTable

    def made_from(self, error: BaseException) -> Problem | None:
        """Return the problem for ``error``; None if the table has none.

        The text of the error is not in it, unless a function of the table puts it there.
        """
        found = self.maker_of(type(error))
        if found is None:
            return None
        if isinstance(found, int):
            return Problem(found)
        if isinstance(found, Problem):  # a new one: headers are added to it
            return found.copy()
        problem = found(error)
        if not isinstance(problem, Problem):
            name = getattr(found, "__qualname__", repr(found))
            raise TypeError(f"{name} of problems returned {type(problem).__name__}, not a Problem")
        return problem

    def maker_of(self, kind: type[BaseException]) -> ProblemMaker | None:
        """Return the entry for a class or the nearest of its bases."""
        for base in kind.__mro__:
            if base in self.table:
                return self.table[base]
        return None


NO_PROBLEMS = Problems({})


def problems_of(owner: object) -> dict[type[Exception], ProblemMaker]:
    """Return the table that the class of ``owner`` declares, with those of its bases.

    Raises DeclarationError if an entry is wrong.
    """
    if "problems" in getattr(owner, "__dict__", {}):
        reason = "sets problems on an object; set it on the class"
        raise DeclarationError(type(owner), reason)
    table: dict[type[Exception], ProblemMaker] = {}
    for kind in reversed(type(owner).__mro__):
        declared = vars(kind).get("problems", {})
        if not isinstance(declared, Mapping):
            reason = f"problems is {declared!r}; write {{OutOfStock: 409}}"
            raise DeclarationError(kind, reason, field="problems")
        for error, maker in declared.items():
            if reason := _fault_of_key(error) or _fault_of_maker(maker):
                raise DeclarationError(kind, f"problems has {reason}", field="problems")
        table |= declared
    return table


def _fault_of_key(error: object) -> str:
    name = getattr(error, "__name__", repr(error))
    if not (isinstance(error, type) and issubclass(error, BaseException)):
        return f"{name}, which is not a class of exceptions"
    if error in _TOO_WIDE:
        return f"{name}, which would hide each fault of the service; write the errors of its domain"
    if issubclass(error, _ANSWERS):
        return f"{name}, which is a response already; remove it"
    if issubclass(error, BaseExceptionGroup):
        return f"{name}, whose members are looked up one by one; write their classes"
    if not issubclass(error, Exception):
        return f"{name}, which ends the task or the process; remove it"
    return ""


def _fault_of_maker(maker: object) -> str:
    if isinstance(maker, int) and not isinstance(maker, bool):
        return "" if 400 <= maker <= 599 else f"the status {maker}; write 400 to 599"
    if isinstance(maker, Problem):
        return ""
    if inspect.iscoroutinefunction(maker):
        return f"{maker.__qualname__}, which is async; write a function without async"
    if callable(maker):
        return ""
    return f"{maker!r}, which is no status, Problem or function that returns one"


@dataclass(frozen=True, slots=True)
class DeclaredProblem:
    """A problem of an endpoint in the OpenAPI document."""

    status: int
    description: str
    """The docstring of the exception; empty for a status alone."""


def declared_problems(function: Any, option: Any, problems: Problems) -> list[DeclaredProblem]:
    """Return the problems that an endpoint declares. Raises DeclarationError for a wrong one."""
    if not isinstance(option, Iterable) or isinstance(option, str | Mapping):
        reason = f"problems={option!r} is not a list of statuses; write problems=(404, 409)"
        raise DeclarationError(function, reason)
    return list(_described(function, option, problems))


def _described(
    function: Any, option: Iterable[object], problems: Problems
) -> Iterator[DeclaredProblem]:
    for each in option:
        if isinstance(each, int) and not isinstance(each, bool):
            if not 400 <= each <= 599:
                reason = f"problems has {each}, which is not the status of an error: 400 to 599"
                raise DeclarationError(function, reason)
            yield DeclaredProblem(int(each), "")
            continue
        if not (isinstance(each, type) and issubclass(each, Exception)):
            reason = f"problems has {each!r}, which is neither a status nor an exception"
            raise DeclarationError(function, reason)
        maker = problems.maker_of(each)
        if maker is None:
            reason = f"problems has {each.__name__}, which has no status; add it to the table "
            raise DeclarationError(function, f"{reason}problems of the class")
        if not isinstance(maker, int | Problem):
            reason = f"problems has {each.__name__}, whose status a function decides; write the "
            raise DeclarationError(function, f"{reason}status")
        status = maker.status if isinstance(maker, Problem) else maker
        yield DeclaredProblem(int(status), inspect.cleandoc(each.__doc__ or "").partition("\n")[0])
