"""Apply a service's rules for browsers: CORS, same origin, allowed hosts, and HSTS."""

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


class BrowserRules:
    """Refuse requests from pages of other origins, and requests for hosts that are not allowed.

    ``cors`` lists the origins that may call the service's own endpoints. No page of another origin
    may call a built-in endpoint, or read its response. ``hsts`` applies to responses over TLS.
    """

    __slots__ = ("_hosts", "cors", "hsts")

    def __init__(
        self,
        cors: CORS | None = None,
        hosts: AllowedHosts | None = None,
        hsts: StrictTransport | None = None,
    ) -> None:
        self.cors = cors
        self.hsts = hsts or StrictTransport()
        self._hosts = hosts or AllowedHosts()

    @property
    def checks_host(self) -> bool:
        """Whether ``check_host`` has to see each request."""
        return bool(self._hosts)

    def preflight(
        self, request: web.BaseRequest, router: Router[Endpoint], path: str
    ) -> web.Response | None:
        """Return the response to a CORS preflight request for ``path``.

        Returns None if ``request`` is not a preflight, if there is no CORS, or if the path has
        built-in endpoints only.
        """
        if self.cors is None:
            return None
        served = router.allowed(path)
        own = [method for method in served if not router.match(method, path)[0].builtin]
        return None if served and not own else self.cors.preflight(request, own)

    def is_builtin(self, router: Router[Endpoint], path: str, methods: Iterable[str]) -> bool:
        """Return whether every endpoint for ``methods`` at ``path`` is built-in.

        Only CORS depends on it: without CORS it is False and not looked up.
        """
        return self.cors is not None and all(
            router.match(method, path)[0].builtin for method in methods
        )

    def check_origin(self, request: web.BaseRequest, endpoint: Endpoint) -> None:
        """Raise Problem (403) if a page of another origin sent ``request`` and may not.

        A request without Origin and Sec-Fetch-Site is not from a browser, and needs no check. GET,
        HEAD and OPTIONS change nothing and pass, unless they ask for a WebSocket: CORS does not
        apply to its messages, so that any page could use it with its visitor's cookies.
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
        """Raise Problem (421) if ``request`` is for a host that is not allowed.

        It is not 400: the request is well formed, but for another server (RFC 9110 section
        15.5.20). Probes and metrics are exempt: platforms send them to an IP address.
        """
        if self._hosts and not endpoint.any_host and not self._hosts.allow(request):
            raise Problem(421, "The request is for a host that GIZMO_ALLOWED_HOSTS does not list.")


def browser_rules_of(service: Service) -> BrowserRules:
    """Return the rules of ``service`` and its settings.

    Raises ConfigError if GIZMO_CORS_ORIGINS has an entry that is not an origin.
    """
    settings = service.settings
    hsts = StrictTransport(settings.hsts, over_tls=bool(settings.tls_cert))
    return BrowserRules(_cors(service, settings), AllowedHosts(settings.allowed_hosts), hsts)


def _cors(service: Service, settings: Settings) -> CORS | None:
    """Return the CORS of the setting, else that of the service's own middleware.

    A middleware sees neither preflight requests nor requests without an endpoint. So the request
    handler applies the CORS to both.
    """
    if not settings.cors_origins:
        return next((each for each in service.middleware if isinstance(each, CORS)), None)
    try:
        return CORS(settings.cors_origins)
    except UsageError as error:
        reason, _, remedy = str(error).partition("; ")
        raise ConfigError([ConfigProblem("GIZMO_CORS_ORIGINS", reason, remedy)]) from error
