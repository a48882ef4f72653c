"""The process: what a service is, and how it starts, works, drains and ends."""

from gizmopy.server.health.checks import health_check
from gizmopy.server.lifecycle.signals import Signals, Stop
from gizmopy.server.run import run
from gizmopy.server.server import SimpleServer, State
from gizmopy.server.service import Service, make_service

__all__ = [
    "Service",
    "Signals",
    "SimpleServer",
    "State",
    "Stop",
    "health_check",
    "make_service",
    "run",
]
