"""The process: a service, and a server that starts it, runs it, drains it and ends it."""

from gizmopy._deprecated import renamed
from gizmopy.server.endpoints import Endpoints
from gizmopy.server.health.checks import health_check
from gizmopy.server.jobs.declaration import background, every
from gizmopy.server.lifecycle.phase import Phase
from gizmopy.server.lifecycle.signals import Signals, Stop
from gizmopy.server.run import run
from gizmopy.server.server import SimpleServer
from gizmopy.server.service import Service, make_service

__all__ = [
    "Endpoints",
    "Phase",
    "Service",
    "Signals",
    "SimpleServer",
    "Stop",
    "background",
    "every",
    "health_check",
    "make_service",
    "run",
]

__getattr__ = renamed(__name__, {"State": "gizmopy.server:Phase"})
