"""The words of HTTP: routes, parameters, answers and problems. No sockets here."""

from gizmopy.web.annotations import Header, Query
from gizmopy.web.answers import json_response
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.problems import Problem, problem_from, problem_response
from gizmopy.web.request import Handler, Middleware, Request, request_factory
from gizmopy.web.router import NoRoute, RouteConflict, Router, WrongMethod
from gizmopy.web.routing import Endpoints, Route, collect_routes, delete, get, patch, post, put

__all__ = [
    "Endpoints",
    "Handler",
    "Header",
    "Middleware",
    "NoRoute",
    "Problem",
    "Query",
    "Request",
    "Route",
    "RouteConflict",
    "Router",
    "WrongMethod",
    "collect_routes",
    "compile_endpoint",
    "delete",
    "get",
    "json_response",
    "patch",
    "post",
    "problem_from",
    "problem_response",
    "put",
    "request_factory",
]
