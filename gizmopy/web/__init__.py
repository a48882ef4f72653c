"""The words of HTTP: routes, parameters, answers and problems. No sockets here."""

from gizmopy.web.annotations import Header, Query
from gizmopy.web.authority import is_host
from gizmopy.web.binding import Answering, compile_answer, compile_endpoint, responding
from gizmopy.web.body import UNREADABLE_BODY
from gizmopy.web.caching import no_cache
from gizmopy.web.cors import CORS
from gizmopy.web.decorators import (
    Endpoints,
    Options,
    Route,
    collect_routes,
    delete,
    get,
    patch,
    post,
    put,
)
from gizmopy.web.problems import Problem, problem_from, problem_response
from gizmopy.web.request import Handler, Middleware, Request
from gizmopy.web.responses import Answer, Plain, json_response
from gizmopy.web.router import NoRoute, RouteConflict, Router, WrongMethod
from gizmopy.web.types import (
    Int64,
    ISODate,
    Truthy,
    UInt64,
    parse_date_range,
    parse_full_day_range,
    parse_iso_date,
)

__all__ = [
    "Answer",
    "Answering",
    "CORS",
    "Endpoints",
    "Handler",
    "Header",
    "ISODate",
    "Int64",
    "Middleware",
    "NoRoute",
    "Options",
    "Plain",
    "Problem",
    "Query",
    "Request",
    "Route",
    "RouteConflict",
    "Router",
    "Truthy",
    "UNREADABLE_BODY",
    "UInt64",
    "WrongMethod",
    "collect_routes",
    "compile_answer",
    "compile_endpoint",
    "delete",
    "get",
    "is_host",
    "json_response",
    "no_cache",
    "parse_date_range",
    "parse_full_day_range",
    "parse_iso_date",
    "patch",
    "post",
    "problem_from",
    "problem_response",
    "put",
    "responding",
]
