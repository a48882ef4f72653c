"""The metrics of the process itself: connections, active requests, lost log lines, the shutdown."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from gizmopy.server.application import Application
from gizmopy.server.http.listening.listener import Port
from gizmopy.server.http.listening.tls import Certificate
from gizmopy.server.lifecycle.phase import Phase

_SHUTDOWN_PHASES = {Phase.DRAINING: 1.0, Phase.STOPPING: 2.0, Phase.CLEANUP: 3.0}
_CONNECTION_STATES = ("active", "idle", "websocket")


class ServerMetrics:
    """Register the metrics of the server of ``app``.

    The server sets the phase and ``dropped_work``. The others are cheaper to read than to keep, so
    they are read from ``ports``, which may be filled later, and from the log before each scrape.
    """

    def __init__(self, app: Application, ports: Sequence[Port]) -> None:
        self._metrics = metrics = app.metrics
        self._ports = ports
        self._access_log = app.instruments.access_log
        target = metrics.gauge(
            "target_info", "The service that is measured.", ("service_name", "service_version")
        )
        target.child(app.name, app.service.settings.service_version).value = 1.0
        self._dropped_lines = metrics.counter("gizmo_log_dropped", "Log lines lost.", ("log",))
        self._active_requests = metrics.gauge(
            "http_server_active_requests",
            "Requests being answered.",
            ("http_request_method", "url_scheme"),
        )
        self._connections = metrics.gauge("gizmo_connections", "Open connections.", ("state",))
        self._shutdown_phase = metrics.gauge(
            "gizmo_shutdown_phase",
            "Phase of the shutdown: 0 not begun, 1 draining, 2 stopping, 3 cleaning up.",
        ).child()
        self.dropped_work = metrics.counter(
            "gizmo_shutdown_dropped",
            "Requests, messages and jobs cancelled at the shutdown's deadline.",
            ("work",),
        )
        metrics.before_scrape(self._refresh)

    def set_phase(self, phase: Phase) -> None:
        """Set the phase of the shutdown."""
        if phase in _SHUTDOWN_PHASES:
            self._shutdown_phase.value = _SHUTDOWN_PHASES[phase]

    def watch_certificate(self, certificate: Certificate) -> None:
        """Report when the current certificate expires, also after it is reloaded."""
        expiry = self._metrics.gauge(
            "gizmo_tls_certificate_not_after_seconds",
            "When the certificate expires, in seconds since 1970.",
        ).child()

        def refresh() -> None:
            expiry.value = certificate.not_after

        self._metrics.before_scrape(refresh)

    def _refresh(self) -> None:
        self._dropped_lines.child("access").value = self._access_log.dropped
        handlers = logging.getLogger().handlers
        self._dropped_lines.child("log").value = sum(getattr(h, "dropped", 0) for h in handlers)
        states = Counter(state for port in self._ports for state in port.connection_states())
        for state in _CONNECTION_STATES:
            self._connections.child(state).value = states[state]
        requests = Counter(
            request for port in self._ports for request in port.handler.active.labels()
        )
        # A combination without an active request is no longer in `requests`, but its child stays.
        for _, child in self._active_requests.children():
            child.value = 0.0
        for request, number in requests.items():
            self._active_requests.child(*request).value = number
