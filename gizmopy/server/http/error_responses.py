"""Turn the error that ended a request into its response."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from gizmopy.errors import PubSubError
from gizmopy.server.http.browser_rules import BrowserRules
from gizmopy.server.http.connection.served_request import CancelReason, ServedRequest
from gizmopy.server.http.endpoint import Endpoint
from gizmopy.server.http.failure_causes import came_of_timeout, is_overdue
from gizmopy.server.http.observer import Observers
from gizmopy.untrusted.error_groups import leaves
from gizmopy.untrusted.error_text import shortened, text_of
from gizmopy.untrusted.text import cut
from gizmopy.web import Problem
from gizmopy.web.body import UNREADABLE_BODY, disconnected
from gizmopy.web.problems import problem_from, problem_response
from gizmopy.web.router import MethodNotAllowed, RouteNotFound, Router

logger = logging.getLogger("gizmopy.server.http")

_RETRY_AFTER = "5"
"""Seconds after which a client may try again while a broker is unavailable."""

_REFUSALS = {
    408: "The head of the request arrived too slowly.",
    414: "The request line is too long.",
    431: "The head of the request is too long.",
}


class ErrorResponses:
    """Make the responses for errors; an unexpected error is logged and reported to observers."""

    def __init__(
        self, router: Router[Endpoint], browsers: BrowserRules, observers: Observers
    ) -> None:
        self._router = router
        self._browsers = browsers
        self._failed = observers.failed

    def response_to(self, request: ServedRequest, error: BaseException) -> web.StreamResponse:
        """Return the response for an error; a part of one that has been sent is abandoned.

        Raises ConnectionError if the client is gone.
        """
        if isinstance(error, asyncio.CancelledError):
            if request.cancel_reason is CancelReason.CLIENT_GONE:
                raise disconnected()
            if request.cancel_reason is CancelReason.STREAM_ENDED:
                assert request.stream is not None
                return request.stream
        if isinstance(error, ConnectionError) and request.is_client_gone:
            raise error
        # The client of a stream that has begun can be told nothing any more, so that an error which
        # would be an answer before is a failure then.
        is_late = request.stream is not None and request.writer.output_size > 0
        is_expected = not is_late or isinstance(error, asyncio.CancelledError)
        problem = self._expected(request, error) if is_expected else None
        problem = problem or self._unexpected(request, error)
        if isinstance(problem, web.Response):
            return problem
        request.abandon_response()
        return problem_response(problem, request_id=request.request_id)

    def _expected(
        self, request: ServedRequest, error: BaseException
    ) -> Problem | web.Response | None:
        """Return the response to an error that is no fault of the service; None for any other."""
        match error:
            case asyncio.CancelledError() if request.cancel_reason is CancelReason.SHUT_DOWN:
                detail = "The server stopped before the request was answered."
                return Problem(503, detail, headers={"Connection": "close"})
            case Problem():
                return error
            case RouteNotFound():
                return Problem(404, f"Nothing is served at {cut(request.path)}.")
            case MethodNotAllowed():
                return self._method_not_allowed(request, error)
            case web.HTTPException():
                return problem_from(error) or _as_response(error)
            case PubSubError() if error.transient:
                return self._broker_unavailable(request, error)
            case web.RequestPayloadError() | HttpProcessingError():
                return Problem(400, UNREADABLE_BODY)
            case BaseExceptionGroup():
                return self._expected_group(request, error)
        if is_overdue(request) and came_of_timeout(error):
            return Problem(504, "The request was not answered before its deadline.")
        return self._declared(request, error)

    def _declared(self, request: ServedRequest, error: BaseException) -> Problem | None:
        """Return the problem that the service declares for ``error``; None for a checker's error.

        The error of a checker says nothing about the request, and must never look like an answer.
        """
        endpoint = request.endpoint
        if endpoint.problems is None or (endpoint.check and not hasattr(request, "caller")):
            return None
        try:
            problem = endpoint.problems.made_from(error)
        except Exception as fault:  # noqa: BLE001 -- it is a function of the service
            return self._unexpected(request, fault)
        if problem is not None and problem.status >= 500:
            self._log_one_line(request, error)
        return problem

    def _expected_group(
        self, request: ServedRequest, group: BaseExceptionGroup[BaseException]
    ) -> Problem | web.Response | None:
        """Return the response with the highest status; None if one error is the service's fault."""
        errors = list(leaves(group))
        gone = [each for each in errors if isinstance(each, ConnectionError)]
        if gone and request.is_client_gone:
            raise gone[0]
        answers = [self._expected(request, each) for each in errors]
        known = [each for each in answers if each is not None]
        if len(known) < len(answers):
            return None
        return max(known, key=lambda answer: answer.status)

    def _method_not_allowed(self, request: ServedRequest, error: MethodNotAllowed) -> Problem:
        request.is_builtin = self._browsers.is_builtin(
            self._router, request.target_path, error.allow
        )
        method, allow = cut(request.method), ", ".join(error.allow)
        detail = f"{method} is not served at {cut(request.path)}; use one of: {allow}."
        return Problem(405, detail, headers={"Allow": allow})

    def _broker_unavailable(self, request: ServedRequest, error: PubSubError) -> Problem:
        """Tell the client to try again. No traceback: an outage fails many requests."""
        if self._failed is not None:
            self._failed(request, error)
        self._log_one_line(request, error)
        detail = "A message broker is not available at present."
        return Problem(503, detail, headers={"Retry-After": _RETRY_AFTER})

    def _log_one_line(self, request: ServedRequest, error: BaseException) -> None:
        method, path = cut(request.method), cut(request.rel_url.raw_path)
        logger.error("%s %s failed: %s", method, path, text_of(error, request.credentials))

    def _unexpected(self, request: ServedRequest, error: BaseException) -> Problem:
        if self._failed is not None:
            self._failed(request, error)
        # Percent-encoded and cut: else a client could write lines of its own to the log.
        method, path = cut(request.method), cut(request.rel_url.raw_path)
        logger.error("%s %s failed", method, path, exc_info=shortened(error, request.credentials))
        return Problem(500, "The server failed to answer; see its log.")


def unparsed_response(
    request: ServedRequest, status: int, error: BaseException
) -> web.StreamResponse:
    """Return the response to a request that is not valid HTTP."""
    if isinstance(error, LineTooLong) or "Too many headers" in str(error):
        status = 431  # the parser says 400
    detail = _REFUSALS.get(status, "The request is not valid HTTP.")
    problem = Problem(status, detail, headers={"Connection": "close"})
    return problem_response(problem, request_id=request.request_id)


def _as_response(error: web.HTTPException) -> web.Response:
    """Return ``error`` as a response of its own: aiohttp warns if an exception is returned."""
    return web.Response(
        status=error.status, reason=error.reason, headers=error.headers, body=error.body
    )
