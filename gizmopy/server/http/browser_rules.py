"""Apply the rules of a service for browsers: CORS, the same origin, and the names of its host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import istr

from gizmopy.config import Settings
from gizmopy.errors import ConfigError, ConfigProblem, UsageError
from gizmopy.web import CORS, Problem
from gizmopy.web.hosts import AllowedHosts
from gizmopy.web.hsts import StrictTransport
from gizmopy.web.router import Router
from gizmopy.web.same_origin import SAFE_METHODS, is_same_origin

if TYPE_CHECKING:
    from gizmopy.server.http.endpoint import Endpoint
    from gizmopy.server.service import Service

_UPGRADE = istr("Upgrade")


class Browsers:
    """Refuse requests of pages of another origin, and requests for a host that is not allowed.

    ``cors`` lists the origins that may call the service's own endpoints. No page of another origin
    may call a built-in one, or read its answer. ``transport`` is for HTTPS only.
    """

    __slots__ = ("_hosts", "cors", "transport")

    def __init__(
        self,
        cors: CORS | None = None,
        hosts: AllowedHosts | None = None,
        transport: StrictTransport | None = None,
    ) -> None:
        self.cors = cors
        self.transport = transport or StrictTransport()
        self._hosts = hosts or AllowedHosts()

    @property
    def is_strict(self) -> bool:
        """Whether ``check_host`` has to see each request."""
        return bool(self._hosts)

    def preflight(
        self, request: web.BaseRequest, router: Router[Endpoint], path: str
    ) -> web.Response | None:
        """Answer a browser that asks before it calls an endpoint of the service at ``path``.

        Returns None if ``request`` is no preflight, or if only built-in endpoints are there.
        """
        served = router.allowed(path)
        own = [method for method in served if not router.match(method, path)[0].builtin]
        if self.cors is None or (served and not own):
            return None
        return self.cors.preflight(request, own)

    def is_builtin(self, router: Router[Endpoint], path: str, methods: Iterable[str]) -> bool:
        """Return whether all that serves ``methods`` at ``path`` is built in.

        Only CORS depends on it: without that it is not looked up, and False.
        """
        return self.cors is not None and all(
            router.match(method, path)[0].builtin for method in methods
        )

    def check_origin(self, request: web.BaseRequest, endpoint: Endpoint) -> None:
        """Raise Problem 403 if a page of another origin sent ``request`` and may not.

        Requests without Origin and Sec-Fetch-Site are of no browser, and need not be checked.
        GET, HEAD and OPTIONS change nothing and pass, unless they ask for a WebSocket: its messages
        are not bound by CORS, so that any page could use it with its visitor's cookies.
        """
        headers = request.headers
        method = request.method
        if endpoint.cross_origin or (method in SAFE_METHODS and _UPGRADE not in headers):
            return
        if is_same_origin(request):
            return
        if self.cors is not None and not endpoint.builtin and self.cors.permits(request):
            return
        detail = (
            "A page of another origin may not send this request; "
            "GIZMO_CORS_ORIGINS lists the origins that may."
        )
        raise Problem(403, detail)

    def check_host(self, request: web.BaseRequest, endpoint: Endpoint) -> None:
        """Raise Problem 421 if ``request`` names a host that is not allowed.

        It is not 400: the request is well formed, but for another server (RFC 9110 section
        15.5.20). Probes and metrics are excepted: a platform asks for them by IP address.
        """
        if self._hosts and not endpoint.any_host and not self._hosts.allow(request):
            raise Problem(421, "The request is for a host that GIZMO_ALLOWED_HOSTS does not list.")


def browsers_of(service: Service) -> Browsers:
    """Return the rules of ``service`` and its settings for browsers.

    Raises ConfigError if an origin in GIZMO_CORS_ORIGINS is none.
    """
    settings = service.settings
    transport = StrictTransport(settings.hsts, over_tls=bool(settings.tls_cert))
    return Browsers(_cors(service, settings), AllowedHosts(settings.allowed_hosts), transport)


def _cors(service: Service, settings: Settings) -> CORS | None:
    """Return the CORS of the setting, else the service's own middleware.

    A middleware sees no preflight and no request without an endpoint: the door shows it both.
    """
    if not settings.cors_origins:
        return next((each for each in service.middleware if isinstance(each, CORS)), None)
    try:
        return CORS(settings.cors_origins)
    except UsageError as error:
        reason, _, remedy = str(error).partition("; ")
        raise ConfigError([ConfigProblem("GIZMO_CORS_ORIGINS", reason, remedy)]) from error
