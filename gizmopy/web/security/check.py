"""Find the caller of a request, or refuse the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from gizmopy.errors import UsageError
from gizmopy.web.problems import Problem, problem_from
from gizmopy.web.request import Request
from gizmopy.web.security.declared import Alternative, Security
from gizmopy.web.security.schemes import MalformedCredentials, Scheme, secrets_of

_CHALLENGE = "WWW-Authenticate"

Check = Callable[[web.Request], Awaitable[None]]
"""Sets the caller of a request, or raises."""

Found = list[tuple[Alternative, tuple[str, ...]]]


def compile_check(security: Security) -> Check:
    """Return the function that sets ``caller`` of a request.

    It raises Problem if no checker accepts the request: 400 or 401 with a challenge, and 403. All
    else that a checker raises passes through, so that the request is not served.
    """

    async def check(request: web.Request) -> None:
        assert isinstance(request, Request)
        found = _credentials(security, request)
        if not found:
            if not security.is_optional:
                wanted = " or ".join(each.scheme.request_text for each in security.alternatives)
                raise _challenged(Problem(401, f"Send {wanted}."), security)
            request.caller = None
            return
        request.credentials = tuple(text for _, texts in found for text in secrets_of(texts))
        request.caller = await _accepted(security, found, request)

    return check


def _credentials(security: Security, request: web.Request) -> Found:
    """Return the credentials of each scheme that the request has some of."""
    found = []
    for alternative in security.alternatives:
        try:
            texts = alternative.scheme.read(request)
        except MalformedCredentials as malformed:
            code = "invalid_request" if malformed.status == 400 else "invalid_token"
            problem = Problem(malformed.status, malformed.detail)
            raise _challenged(problem, security, {alternative.scheme: code}) from malformed
        if texts is not None:
            found.append((alternative, texts))
    return found


async def _accepted(security: Security, found: Found, request: web.Request) -> object:
    """Return the caller that the first accepting checker gives; else raise the refusal."""
    refusals: list[Problem] = []
    for alternative, texts in found:
        try:
            caller = await _call(alternative, texts, request)
        except (Problem, web.HTTPException) as error:
            refusals.append(_refusal(error))
            continue
        if isinstance(caller, BaseException | web.StreamResponse):
            name = type(caller).__name__
            raise UsageError(f"checker {alternative.name} returned a {name}; raise it instead")
        # A comparison that is returned is False for a wrong key, and a look-up gives None.
        if caller is not None and caller is not False:
            return caller
        refusals.append(Problem(401, "The credentials are not valid."))
    worst = max(refusals, key=lambda refusal: refusal.status)
    if worst.status != 401:
        raise worst
    wrong = {each.scheme: "invalid_token" for each, _ in found}
    raise _challenged(worst, security, wrong)


def _refusal(error: Problem | web.HTTPException) -> Problem:
    """Return the problem by which a checker refuses; raise anything else that it raised.

    Raises UsageError for a response of success, which would look as if the request had passed.
    """
    if error.status < 300:
        raise UsageError(f"a checker raised a response with the status {error.status}") from error
    problem = error if isinstance(error, Problem) else problem_from(error)
    if problem is None or problem.status not in (401, 403):
        raise error
    return problem


async def _call(alternative: Alternative, texts: tuple[str, ...], request: web.Request) -> object:
    arguments: dict[str, Any] = dict(zip(alternative.texts, texts, strict=True))
    if alternative.request:
        arguments[alternative.request] = request
    result = alternative.function(**arguments)
    return await result if inspect.isawaitable(result) else result


def _challenged(
    problem: Problem, security: Security, codes: Mapping[Scheme, str] = MappingProxyType({})
) -> Problem:
    """Return ``problem`` with a challenge of each scheme, unless the checker set one.

    ``codes`` are the errors of RFC 6750. A request without credentials gets none (section 3.1).
    """
    if _CHALLENGE in problem.headers:
        return problem
    # A new one: a checker may raise the same object each time.
    challenged = problem.copy()
    schemes = (each.scheme for each in security.alternatives)
    lines = (each.challenge(security.realm, codes.get(each, "")) for each in schemes)
    for line in dict.fromkeys(lines):
        challenged.headers.add(_CHALLENGE, line)
    return challenged
