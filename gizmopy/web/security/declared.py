"""Declare checkers, and find the ones that apply to an endpoint."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, overload

from aiohttp import web

from gizmopy.declaration import REQUIRED, add_mark, declared_methods, read_signature
from gizmopy.errors import DeclarationError, source_of
from gizmopy.web.request import Request
from gizmopy.web.security.caller import REFUSING, is_caller, members
from gizmopy.web.security.schemes import (
    APIKey,
    HTTPBasic,
    HTTPBearer,
    Location,
    Scheme,
    is_plain,
)

Checker = Callable[..., object]
"""A method or a function with one of the decorators here."""

CheckerT = TypeVar("CheckerT", bound=Checker)

_MARK = "__gizmo_checker__"
_ANSWERS = (BaseException, web.StreamResponse)
_REQUEST_TYPES = (Request, web.Request, web.BaseRequest)
_is_token = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch


class Inherited(Enum):
    """The security of an endpoint, or of a mounted object, that declares none of its own."""

    INHERITED = "the security of the object, or of the service"


Checkers = Sequence[Checker | None] | None | Inherited
"""The checkers of which one has to accept a request; None: everybody may call.

A None among checkers accepts a request without credentials."""

SecurityOption = Checker | Checkers
"""The same for one endpoint, which may name one checker alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """A checker that may accept a request, and how it is called."""

    name: str
    scheme: Scheme
    function: Checker
    texts: tuple[str, ...]
    """Its parameters for the credentials."""
    request: str
    """Its parameter for the request; empty if it takes none."""
    callers: Sequence[Any]
    """The types of its result, without None: that refuses the request."""

    @property
    def description(self) -> str:
        """The docstring of the checker."""
        return inspect.getdoc(self.function) or ""


@dataclass(frozen=True, slots=True, eq=False)
class Security:
    """The checkers of an endpoint: one of them has to accept a request."""

    alternatives: tuple[Alternative, ...]
    is_optional: bool
    """Whether a request without credentials is served; its caller is None."""
    realm: str
    """The realm of schemes that have none of their own."""

    def __str__(self) -> str:
        names = [each.name for each in self.alternatives] + ["nobody"] * self.is_optional
        return " or ".join(names)


@overload
def http_bearer(function: CheckerT, /) -> CheckerT: ...
@overload
def http_bearer(*, realm: str = "", format: str = "") -> Callable[[CheckerT], CheckerT]: ...
def http_bearer(
    function: CheckerT | None = None, /, *, realm: str = "", format: str = ""
) -> CheckerT | Callable[[CheckerT], CheckerT]:
    """Let a method check the token of ``Authorization: Bearer`` (RFC 6750).

    The method is ``def user(self, token: str) -> User``, async or not. It returns the caller. To
    refuse, it returns None or False, or raises Problem: 401, or 403 for a caller who may not do
    this. It may take a ``request: web.Request``, too.

    ``realm`` is told to clients (default: the name of the service). ``format`` describes the token
    in the OpenAPI document: ``JWT``.
    """
    return _declare(HTTPBearer(realm, format), function)


@overload
def http_basic(function: CheckerT, /) -> CheckerT: ...
@overload
def http_basic(*, realm: str = "") -> Callable[[CheckerT], CheckerT]: ...
def http_basic(
    function: CheckerT | None = None, /, *, realm: str = ""
) -> CheckerT | Callable[[CheckerT], CheckerT]:
    """Let a method check a user name and a password of ``Authorization: Basic`` (RFC 7617).

    The method is ``def user(self, username: str, password: str) -> User``; see ``http_bearer``.
    Compare passwords with ``same_secret``, or with the function of a password hash.
    """
    return _declare(HTTPBasic(realm), function)


def api_key(
    *, header: str = "", query: str = "", cookie: str = "", realm: str = ""
) -> Callable[[CheckerT], CheckerT]:
    """Let a method check a key in the header, in the query parameter or in the cookie of that name.

    The method is ``def client(self, key: str) -> Client``; see ``http_bearer``. Compare keys with
    ``same_secret``. Prefer a header: logs of proxies and browsers' histories have the queries of
    URLs, and browsers send cookies with requests that other sites make.
    """
    named: list[tuple[Location, str]] = [
        ("header", header),
        ("query", query),
        ("cookie", cookie),
    ]
    places = [(location, name) for location, name in named if name]

    def declare(function: CheckerT) -> CheckerT:
        if len(places) != 1 or callable(header):
            remedy = 'write one of header="X-API-Key", query="key" and cookie="session"'
            raise DeclarationError(function, f"is decorated with @api_key: {remedy}")
        location, name = places[0]
        if location != "query" and not _is_token(name):
            raise DeclarationError(function, f"@api_key has the {location} {name!r}, no valid name")
        return _marked(APIKey(location, name, realm), realm, function)

    return declare


def _declare(
    scheme: HTTPBearer | HTTPBasic, function: CheckerT | None
) -> CheckerT | Callable[[CheckerT], CheckerT]:
    def declare(checker: CheckerT) -> CheckerT:
        return _marked(scheme, scheme.realm, checker)

    return declare if function is None else declare(function)


def _marked(scheme: Scheme, realm: str, function: CheckerT) -> CheckerT:
    if not is_plain(realm):
        raise DeclarationError(function, f"realm={realm!r} is not printable ASCII")
    add_mark(function, _MARK, scheme)
    return function


# Find the checkers of an endpoint.


def security_of(
    owner: object, others: Iterable[object], inherited: Security | None, realm: str
) -> Security | None:
    """Return the security that ``owner`` declares for its endpoints, or ``inherited``.

    A checker may be a method of ``owner``, or of one of ``others``. Raises DeclarationError if it
    declares something else.
    """
    option = getattr(owner, "security", Inherited.INHERITED)
    if callable(option):
        name = getattr(option, "__name__", "checker")
        raise DeclarationError(type(owner), f"security is a function; write security = ({name},)")
    return resolve(option, (owner, *others), inherited, realm, type(owner))


def resolve(
    option: SecurityOption,
    owners: Sequence[object],
    inherited: Security | None,
    realm: str,
    place: Any,
) -> Security | None:
    """Return the security that ``option`` means. ``place`` is named in a DeclarationError."""
    if option is Inherited.INHERITED:
        return inherited
    if option is None:
        return None
    several = option if isinstance(option, Sequence) and not isinstance(option, str) else (option,)
    checkers = [each for each in several if each is not None]
    if not checkers:
        reason = f"security={option!r} has no checker; write None to serve it to everybody"
        raise DeclarationError(place, reason)
    alternatives = [one for each in checkers for one in _alternatives(each, owners, place)]
    for at, each in enumerate(alternatives):
        same = (each.function, each.scheme)
        if any(same == (other.function, other.scheme) for other in alternatives[:at]):
            raise DeclarationError(place, f"security has the checker {each.name!r} twice")
    return Security(tuple(alternatives), len(checkers) < len(several), realm)


def _alternatives(checker: object, owners: Sequence[object], place: Any) -> Iterator[Alternative]:
    """Yield an alternative for each scheme that decorates ``checker``."""
    found = _declared(checker, owners)
    if found is None:
        shown = source_of(checker) if callable(checker) else repr(checker)
        reason = f"security has {shown}, which is no checker; decorate it with @http_bearer, "
        raise DeclarationError(place, f"{reason}@http_basic or @api_key")
    function, schemes = found
    for scheme in schemes:
        yield _compiled(function, scheme)


def _declared(checker: Any, owners: Sequence[object]) -> tuple[Checker, Sequence[Scheme]] | None:
    """Return the function of a checker, bound to its object, and its schemes."""
    plain = getattr(checker, "__func__", checker)
    bound_to = getattr(checker, "__self__", None)
    for owner in owners if bound_to is None else (bound_to,):
        for name, function, marks in declared_methods(owner, _MARK):
            if _has_member(type(owner), name, plain):
                return function, marks
        name = getattr(plain, "__name__", "")
        if _has_member(type(owner), name, plain):
            reason = f"security has {source_of(plain)}, which {name} = None removes"
            raise DeclarationError(type(owner), reason)
    marks = getattr(plain, _MARK, ())
    return (checker, marks) if marks and callable(checker) else None


def _has_member(kind: type, name: str, plain: Any) -> bool:
    """Return whether ``plain`` is ``name`` in a class or in one of its bases."""
    found = (vars(base).get(name) for base in kind.__mro__)
    return any(getattr(each, "__func__", each) is plain for each in found)


def _compiled(function: Checker, scheme: Scheme) -> Alternative:
    if inspect.isgeneratorfunction(function):
        raise DeclarationError(
            function, "has a 'yield', so it returns a generator; return a caller"
        )
    signature = read_signature(function, may_be_sync=True)
    requests = [each for each in signature.parameters if each.annotation in _REQUEST_TYPES]
    texts = [each for each in signature.parameters if each not in requests]
    wanted = ", ".join(f"{name}: str" for name in scheme.parameters)
    if (
        len(texts) != len(scheme.parameters)
        or len(requests) > 1
        or any(each.annotation is not str or not each.required for each in texts)
    ):
        reason = f"is a checker, which takes ({wanted}), and may take a request: web.Request"
        raise DeclarationError(function, reason)
    return Alternative(
        getattr(function, "__name__", type(function).__name__),
        scheme,
        function,
        tuple(each.name for each in texts),
        requests[0].name if requests else "",
        _caller_types(function, signature.returns),
    )


def _caller_types(function: Checker, returns: Any) -> Sequence[Any]:
    if returns is REQUIRED:
        raise DeclarationError(function, "is a checker; annotate its result: the type of a caller")
    if is_caller(returns):
        raise DeclarationError(function, "returns a Caller[…]; annotate it with the type itself")
    classes = [each for each in members(returns) if isinstance(each, type)]
    if wrong := [each for each in classes if issubclass(each, _ANSWERS)]:
        reason = f"returns {wrong[0].__name__}, which would let the request pass; raise it"
        raise DeclarationError(function, reason)
    callers = [each for each in members(returns) if each not in REFUSING]
    if not callers:
        reason = "returns only None, which refuses each request; return the caller, or True"
        raise DeclarationError(function, reason)
    return callers


def checkers_of(owner: object) -> Iterator[Checker]:
    """Yield the checkers that are methods of ``owner``.

    Raises DeclarationError if one of them is lost: hidden by another decorator or definition.
    """
    for _, function, _ in declared_methods(owner, _MARK):
        yield function


def check_use(owners: Iterable[object], used: Iterable[Security | None]) -> None:
    """Raise DeclarationError if an object has checkers, and no endpoint uses any of them.

    Its endpoints would be served to everybody.
    """
    functions = [each.function for one in used if one for each in one.alternatives]
    for owner in owners:
        own = list(checkers_of(owner))
        if own and not any(each in functions for each in own):
            name = getattr(own[0], "__name__", "")
            reason = f"is a checker that no endpoint uses; write security = ({name},) in the class"
            raise DeclarationError(own[0], f"{reason}, or @get(..., security={name})")
