"""The public names of each package: those that it lists, and no others."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

import gizmopy
import gizmopy.errors
import gizmopy.server
import gizmopy.web

PACKAGES = ("gizmopy.config", "gizmopy.pubsub", "gizmopy.server", "gizmopy.web")

DEPRECATED_IN_WEB = {
    "Answer",
    "Answering",
    "Endpoints",
    "Middleware",
    "NoRoute",
    "Options",
    "Plain",
    "Route",
    "RouteConflict",
    "Router",
    "UNREADABLE_BODY",
    "WrongMethod",
    "collect_routes",
    "compile_answer",
    "compile_endpoint",
    "is_host",
    "problem_from",
    "problem_response",
    "responding",
}
"""The names that were in ``gizmopy.web.__all__`` of 0.1."""

IN_WEB = {
    *(
        "Body",
        "CORS",
        "Caller",
        "Cookie",
        "EndpointTable",
        "Event",
        "EventStream",
        "FileResponse",
        "Form",
        "HTTPMiddleware",
        "Handler",
        "Header",
        "LastEventID",
        "ISODate",
        "Int64",
    ),
    *(
        "Problem",
        "Query",
        "Request",
        "Truthy",
        "UInt64",
        "UploadFile",
        "delete",
        "get",
        "json_response",
    ),
    *("no_cache", "parse_date_range", "parse_full_day_range", "parse_iso_date", "patch"),
    *("api_key", "http_basic", "http_bearer", "post", "put", "same_secret"),
}
"""The names that a service uses."""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_each_name_that_it_imports(package: str) -> None:
    """A name that a package imports is in ``__all__``: there are no undeclared public names."""
    module = import_module(package)
    imported = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", package) not in ("__future__", "gizmopy._deprecated")
    }
    assert imported - {"TYPE_CHECKING", "import_module"} <= set(module.__all__)


def test_the_public_names_for_http_are_those_that_a_service_uses() -> None:
    """The server's machinery (router, binding, responses) is imported from its own modules."""
    assert set(gizmopy.web.__all__) == IN_WEB


@pytest.mark.parametrize("name", sorted(DEPRECATED_IN_WEB))
def test_a_name_of_the_last_release_is_deprecated(name: str) -> None:
    """A name that left ``gizmopy.web`` is found there until 0.3, with a warning."""
    with pytest.warns(DeprecationWarning, match=rf"gizmopy\.web\.{name} is deprecated"):
        assert getattr(gizmopy.web, name) is not None


def test_the_old_name_of_the_table_is_not_the_class_to_mount() -> None:
    """``gizmopy.web.Endpoints`` is the type of a table until 0.3; its warning names the class."""
    with pytest.warns(DeprecationWarning, match=r"web\.EndpointTable; .* gizmopy\.Endpoints$"):
        assert gizmopy.web.Endpoints is gizmopy.web.EndpointTable
    assert gizmopy.Endpoints is gizmopy.server.Endpoints


IN_GIZMOPY = {
    *(
        "Body",
        "Caller",
        "CloudEvent",
        "Cookie",
        "api_key",
        "http_basic",
        "http_bearer",
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
    ),
    *(
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
    ),
    *("background", "delete", "every", "get", "health_check", "patch", "post", "put", "subscribe"),
    "time_left",
}
"""The names that most daemons need."""


def test_gizmopy_exports_the_names_that_most_daemons_need() -> None:
    """``__all__`` and ``dir()`` have the same names, in order, and each can be imported."""
    assert set(gizmopy.__all__) == IN_GIZMOPY
    assert gizmopy.__all__ == sorted(gizmopy.__all__) == dir(gizmopy)
    assert all(getattr(gizmopy, name) is not None for name in gizmopy.__all__)


def test_a_topic_that_does_not_exist_was_called_not_found() -> None:
    """``gizmopy.errors.NotFound`` is ``TopicNotFound`` until 0.3, with a warning."""
    with pytest.warns(DeprecationWarning, match=r"use gizmopy\.errors\.TopicNotFound"):
        assert gizmopy.errors.NotFound is gizmopy.errors.TopicNotFound
