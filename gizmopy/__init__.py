"""An opinionated toolkit for HTTP and pub/sub daemons: one process, nothing dropped.

This package exports the names that most daemons need. Each is imported when it is first used, so
that ``import gizmopy`` loads no other module::

    from gizmopy import Message, Service, put, subscribe

``gizmopy.server`` has the process, ``gizmopy.web`` HTTP, ``gizmopy.pubsub`` messages and brokers,
``gizmopy.config`` settings, ``gizmopy.observe`` logs and metrics, ``gizmopy.errors`` every error.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gizmopy.config import Duration as Duration
    from gizmopy.config import Settings as Settings
    from gizmopy.config import Shown as Shown
    from gizmopy.errors import GizmoError as GizmoError
    from gizmopy.errors import Reject as Reject
    from gizmopy.errors import Retry as Retry
    from gizmopy.observe.context import time_left as time_left
    from gizmopy.pubsub import CloudEvent as CloudEvent
    from gizmopy.pubsub import Message as Message
    from gizmopy.pubsub import RetryPolicy as RetryPolicy
    from gizmopy.pubsub import subscribe as subscribe
    from gizmopy.server import Endpoints as Endpoints
    from gizmopy.server import Service as Service
    from gizmopy.server import SimpleServer as SimpleServer
    from gizmopy.server import background as background
    from gizmopy.server import every as every
    from gizmopy.server import health_check as health_check
    from gizmopy.web import Body as Body
    from gizmopy.web import Caller as Caller
    from gizmopy.web import Cookie as Cookie
    from gizmopy.web import Event as Event
    from gizmopy.web import EventStream as EventStream
    from gizmopy.web import FileResponse as FileResponse
    from gizmopy.web import Form as Form
    from gizmopy.web import Header as Header
    from gizmopy.web import LastEventID as LastEventID
    from gizmopy.web import Problem as Problem
    from gizmopy.web import Query as Query
    from gizmopy.web import UploadFile as UploadFile
    from gizmopy.web import api_key as api_key
    from gizmopy.web import delete as delete
    from gizmopy.web import get as get
    from gizmopy.web import http_basic as http_basic
    from gizmopy.web import http_bearer as http_bearer
    from gizmopy.web import patch as patch
    from gizmopy.web import post as post
    from gizmopy.web import put as put

__version__ = "0.1.0"

_MODULES = {
    "Body": "web",
    "Caller": "web",
    "CloudEvent": "pubsub",
    "Cookie": "web",
    "Duration": "config",
    "Endpoints": "server",
    "Event": "web",
    "EventStream": "web",
    "FileResponse": "web",
    "Form": "web",
    "GizmoError": "errors",
    "Header": "web",
    "LastEventID": "web",
    "Message": "pubsub",
    "Problem": "web",
    "Query": "web",
    "Reject": "errors",
    "Retry": "errors",
    "RetryPolicy": "pubsub",
    "Service": "server",
    "Settings": "config",
    "Shown": "config",
    "SimpleServer": "server",
    "UploadFile": "web",
    "api_key": "web",
    "background": "server",
    "delete": "web",
    "every": "server",
    "get": "web",
    "health_check": "server",
    "http_basic": "web",
    "http_bearer": "web",
    "patch": "web",
    "post": "web",
    "put": "web",
    "subscribe": "pubsub",
    "time_left": "observe.context",
}

__all__ = [
    "Body",
    "Caller",
    "CloudEvent",
    "Cookie",
    "Duration",
    "Endpoints",
    "Event",
    "EventStream",
    "FileResponse",
    "Form",
    "GizmoError",
    "Header",
    "LastEventID",
    "Message",
    "Problem",
    "Query",
    "Reject",
    "Retry",
    "RetryPolicy",
    "Service",
    "Settings",
    "Shown",
    "SimpleServer",
    "UploadFile",
    "__version__",
    "api_key",
    "background",
    "delete",
    "every",
    "get",
    "health_check",
    "http_basic",
    "http_bearer",
    "patch",
    "post",
    "put",
    "subscribe",
    "time_left",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # later uses do not call __getattr__
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
