"""Measure each request, and write its line to the access log."""

from __future__ import annotations

from multidict import istr

from gizmopy.observe.access import AccessLog
from gizmopy.observe.metrics import Metrics
from gizmopy.server.http.connection.served_request import ServedRequest
from gizmopy.server.http.endpoint import Endpoint, RouteStats
from gizmopy.server.http.observer import RequestObserver, method_label

_USER_AGENT = istr("User-Agent")
_REFERER = istr("Referer")


class RequestRecorder(RequestObserver):
    """Feed the metrics and the access log.

    Both are fed by one observer, because they share a look-up: the values that all requests of one
    route, method and status have in common are made once, and kept on the endpoint.
    """

    def __init__(self, metrics: Metrics, access: AccessLog) -> None:
        self._access = access
        self._durations = metrics.histogram(
            "http_server_request_duration_seconds",
            "Time to answer a request.",
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        self._panics = metrics.counter("gizmo_panics", "Errors that no endpoint handled.").child()

    def request_failed(self, request: ServedRequest, error: BaseException) -> None:
        """Count an error that no endpoint handled."""
        self._panics.value += 1

    def request_ended(self, request: ServedRequest) -> None:
        """Measure a request, and log it unless its endpoint is quiet."""
        endpoint, method, status = request.endpoint, request.method, request.status
        stats = endpoint.last_stats
        if stats is None or stats.status != status or stats.method != method:
            stats = endpoint.last_stats = self._stats(endpoint, method, status)
        stats.duration.observe(request.duration)
        if self._access.enabled and not endpoint.quiet:
            client = request.forwarded_client  # not client_address: a call for each request
            protocol, referer = _details(request) if self._access.detailed else ("", "")
            self._access.write(
                stats.access,
                request.request_id,
                request.target_path,
                request.duration,
                request.sent_bytes,
                request.connection.peer if client is None else client,
                request.headers.get(_USER_AGENT, ""),
                request.trace_id,
                protocol,
                referer,
            )

    def _stats(self, endpoint: Endpoint, method: str, status: int) -> RouteStats:
        """Return the shared values of the requests of one route, method and status."""
        stats = endpoint.stats.get((method, status))
        if stats is None:
            label = method_label(method)
            duration = self._durations.child(label, endpoint.template, str(status))
            access = self._access.fixed_part(label, endpoint.template, status)
            stats = RouteStats(method, status, duration, access)
            if label == method:  # else clients could fill the memory with made-up methods
                endpoint.stats[method, status] = stats
        return stats


def _details(request: ServedRequest) -> tuple[str, str]:
    """Return the protocol of a request, and its referer without the query: it may have a key."""
    version = request.version
    referer = request.headers.get(_REFERER, "").partition("?")[0].partition("#")[0]
    return f"HTTP/{version.major}.{version.minor}", referer
