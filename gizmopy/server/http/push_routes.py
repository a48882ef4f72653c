"""Mount the routes by which a broker pushes messages: the only place where both meet."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from gizmopy.config import Settings
from gizmopy.errors import StartError
from gizmopy.pubsub import Channels, Subscription
from gizmopy.pubsub.pushes import PushTarget
from gizmopy.server.http.endpoint import Endpoint
from gizmopy.web.binding import EndpointCall
from gizmopy.web.body import read_body
from gizmopy.web.router import Router, parse_template


def mount_pushes(
    router: Router[Endpoint],
    channels: Channels,
    subscriptions: Sequence[Subscription],
    settings: Settings,
) -> None:
    """Add the routes of the ``subscriptions`` whose brokers push messages to ``router``.

    They have the limits, the access log and the metrics of the service's own endpoints. A broker is
    no browser, so pages of other origins are not refused: the driver verifies who sends.

    Raises StartError if a path is a template, or is served by an endpoint or another subscription.
    """
    read_timeout = settings.read_timeout.total_seconds()
    for target in channels.push_targets(subscriptions):
        for method, path in target.routes:
            endpoint = Endpoint(
                path,
                _call(target, method, path, read_timeout),
                # The message may be handled, so a sender that has gone away changes nothing.
                cancellable=False,
                cross_origin=True,
            )
            try:
                if any(segment.names for segment in parse_template(path)):
                    raise ValueError("it is a template; use a path without { and }")
                router.add(method, path, endpoint)
            except ValueError as error:
                reason = f"{target.name} cannot receive {method} {path}: {error}"
                raise StartError(reason) from error


def _call(target: PushTarget, method: str, path: str, read_timeout: float) -> EndpointCall:
    async def push(request: web.Request) -> web.Response:
        body = await read_body(request, read_timeout)
        headers: dict[str, str] = {}
        for name, text in request.headers.items():
            name = name.lower()
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
        status, reply_headers, reply = await target.answer(method, path, headers, body)
        return web.Response(status=status, headers=reply_headers, body=reply)

    return push
