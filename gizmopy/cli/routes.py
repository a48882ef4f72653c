"""``gizmopy routes module:Service``: print the endpoints, channels and jobs of a service."""

from __future__ import annotations

from collections.abc import Sequence

from gizmopy.cli.parser import Parser
from gizmopy.cli.target import SERVICE, find_service, split_service
from gizmopy.config import load
from gizmopy.server import SimpleServer, make_service
from gizmopy.server.service import settings_class
from gizmopy.web.decorators import Route


def main(argv: Sequence[str]) -> int:
    """Print a line for each endpoint, subscription, declared channel and job, and return 0.

    The service is not started. Constructing the server reads every declaration, so a wrong one ends
    this command with the same error as a start.
    """
    parser = Parser(prog="gizmopy routes", description=__doc__)
    parser.add_argument("target", metavar=SERVICE)
    target, flags = split_service(argv)
    chosen = parser.parse_args([target] if target else argv[:1])
    service = find_service(chosen.target)
    settings = load(settings_class(service), flags).settings
    server = SimpleServer(make_service(service, settings))
    rows = [(route.method, route.path, _named(route)) for route in server.routes]
    rows += [
        ("subscribe", f"{each.channel} ({each.subscription})", each.name)
        for each in server.subscriptions
    ]
    rows += [
        ("publish", channel, "" if type_ is None else getattr(type_, "__name__", str(type_)))
        for channel, type_ in server.application.publishes.items()
    ]
    rows += [("job", job.schedule, job.name) for job in server.application.jobs.all]
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    for verb, address, name in rows:
        print(f"{verb:<{first}}  {address:<{second}}  {name}".rstrip())
    return 0


def _named(route: Route) -> str:
    """Return the name of an endpoint, and the checkers of which one has to accept a request."""
    return route.name if route.security is None else f"{route.name}  [{route.security}]"
