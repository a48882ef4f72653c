"""HTTP without sockets: routes, parameters, responses and problems.

The names here are those that a service uses. The server compiles and serves the routes.
"""

from gizmopy._deprecated import renamed
from gizmopy.web.annotations import Body, Cookie, Form, Header, Query
from gizmopy.web.caching import no_cache
from gizmopy.web.cors import CORS
from gizmopy.web.decorators import EndpointTable, delete, get, patch, post, put
from gizmopy.web.events import Event, EventStream, LastEventID
from gizmopy.web.files import FileResponse
from gizmopy.web.problems import Problem
from gizmopy.web.request import Handler, HTTPMiddleware, Request
from gizmopy.web.responses import json_response
from gizmopy.web.security.caller import Caller
from gizmopy.web.security.comparison import same_secret
from gizmopy.web.security.declared import api_key, http_basic, http_bearer
from gizmopy.web.types import (
    Int64,
    ISODate,
    Truthy,
    UInt64,
    parse_date_range,
    parse_full_day_range,
    parse_iso_date,
)
from gizmopy.web.uploads import UploadFile

__all__ = [
    "CORS",
    "Body",
    "Caller",
    "Cookie",
    "EndpointTable",
    "Event",
    "EventStream",
    "FileResponse",
    "HTTPMiddleware",
    "Form",
    "Handler",
    "Header",
    "ISODate",
    "Int64",
    "LastEventID",
    "Problem",
    "Query",
    "Request",
    "Truthy",
    "UInt64",
    "UploadFile",
    "api_key",
    "delete",
    "get",
    "http_basic",
    "http_bearer",
    "json_response",
    "no_cache",
    "parse_date_range",
    "parse_full_day_range",
    "parse_iso_date",
    "patch",
    "post",
    "put",
    "same_secret",
]

__getattr__ = renamed(
    __name__,
    {
        "Answer": "gizmopy.web.responses:Response",
        "Answering": "gizmopy.web.binding:EndpointCall",
        "Endpoints": "gizmopy.web:EndpointTable",
        "Middleware": "gizmopy.web:HTTPMiddleware",
        "NoRoute": "gizmopy.web.router:RouteNotFound",
        "Options": "gizmopy.web.decorators:RouteOptions",
        "Plain": "gizmopy.web.responses:RawResponse",
        "Route": "gizmopy.web.decorators:Route",
        "RouteConflict": "gizmopy.web.router:RouteConflict",
        "Router": "gizmopy.web.router:Router",
        "UNREADABLE_BODY": "gizmopy.web.body:UNREADABLE_BODY",
        "WrongMethod": "gizmopy.web.router:MethodNotAllowed",
        "collect_routes": "gizmopy.web.decorators:collect_routes",
        "compile_answer": "gizmopy.web.binding:compile_call",
        "compile_endpoint": "gizmopy.web.binding:compile_endpoint",
        "is_host": "gizmopy.web.authority:is_host",
        "problem_from": "gizmopy.web.problems:problem_from",
        "problem_response": "gizmopy.web.problems:problem_response",
        "responding": "gizmopy.web.binding:as_handler",
    },
    {"Endpoints": "; the class that a service mounts is gizmopy.Endpoints"},
)
