"""Observe requests: the one place where metrics, logs, traces and error trackers attach.

The handler calls each observer in the task of the request, so that an observer sees the context
variables of the request. It must be quick, because it delays every response, and it must not raise.

This is not part of the public interface yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gizmopy.server.http.connection.served_request import ServedRequest


class RequestObserver:
    """Override the methods for the events that are of interest.

    The handler looks up the overridden methods once, when it is made. A method that no observer
    overrides costs nothing for a request.

    These attributes of a request are for observers: ``method``, ``endpoint.template`` (the route),
    ``target_path``, ``headers``, ``client_address``, ``scheme``, ``request_id``, ``trace_id``,
    ``received_bytes``; and when it has ended, ``status``, ``sent_bytes`` and ``duration``
    (seconds).
    """

    def request_begun(self, request: ServedRequest) -> None:
        """Note that a request has arrived. It is not routed yet, and has no trace."""

    def request_failed(self, request: ServedRequest, error: BaseException) -> None:
        """Note an error that is answered with 500: no endpoint or middleware handled it."""

    def request_ended(self, request: ServedRequest) -> None:
        """Note that the response is sent, or that it never will be.

        Status 499 means that the client left before it had the response. ``sent_bytes`` is 0 then.
        """


class Observers:
    """The methods that observers override, each combined into one function."""

    __slots__ = ("begun", "ended", "failed")

    def __init__(self, observers: Sequence[RequestObserver]) -> None:
        self.begun: Callable[[ServedRequest], None] | None = _combine(observers, "request_begun")
        """Calls every ``request_begun``; None if no observer overrides it."""
        self.failed: Callable[[ServedRequest, BaseException], None] | None = _combine(
            observers, "request_failed"
        )
        """Calls every ``request_failed``; None if no observer overrides it."""
        self.ended: Callable[[ServedRequest], None] | None = _combine(observers, "request_ended")
        """Calls every ``request_ended``; None if no observer overrides it."""


def _combine(observers: Sequence[RequestObserver], name: str) -> Callable[..., None] | None:
    inherited = getattr(RequestObserver, name)
    methods = [
        getattr(observer, name)
        for observer in observers
        if getattr(type(observer), name) is not inherited
    ]
    if len(methods) <= 1:
        return methods[0] if methods else None

    def call_all(*arguments: Any) -> None:
        for method in methods:
            method(*arguments)

    return call_all


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"))
OTHER_METHOD = "_OTHER"
"""The label of all other methods (OpenTelemetry's semantic conventions for HTTP)."""


def method_label(method: str) -> str:
    """Return ``method`` as a label: clients can make up methods, but not labels."""
    return method if method in _METHODS else OTHER_METHOD
