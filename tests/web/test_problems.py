"""Problem details: the members of the response, and the problems for aiohttp's errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import web

from gizmopy.web import Problem
from gizmopy.web.problems import problem_from, problem_response


def members(response: web.Response) -> Any:
    """Return the JSON members of the response for a problem."""
    assert response.content_type == "application/problem+json"
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_a_problem_has_at_least_its_status() -> None:
    """The title is the phrase of the status, and the type is about:blank."""
    response = problem_response(Problem(404))
    assert response.status == 404
    assert members(response) == {"type": "about:blank", "title": "Not Found", "status": 404}


def test_a_response_has_every_part_of_a_problem() -> None:
    """The detail, errors, extensions, the request id and the headers are sent."""
    problem = Problem(
        HTTPStatus.CONFLICT,
        "the cat sleeps",
        title="Busy",
        type="https://cats.example/busy",
        headers={"Retry-After": "5"},
        errors=[{"in": "query", "field": "id", "message": "no", "type": "x"}],
        cat=7,
        until=datetime(2026, 1, 2, tzinfo=UTC),
    )
    response = problem_response(problem, request_id="abc")

    assert response.headers["Retry-After"] == "5"
    assert members(response) == {
        "type": "https://cats.example/busy",
        "title": "Busy",
        "status": 409,
        "detail": "the cat sleeps",
        "errors": [{"in": "query", "field": "id", "message": "no", "type": "x"}],
        "cat": 7,
        "until": "2026-01-02T00:00:00Z",
        "request_id": "abc",
    }


def test_the_text_of_a_problem_is_for_logs() -> None:
    """The exception's text has the status, the title and the detail."""
    assert str(Problem(404, "no such cat")) == "404 Not Found: no such cat"


@pytest.mark.parametrize(
    ("status", "title"), [(499, "Client Error"), (599, "Server Error"), (418, "I'm a Teapot")]
)
def test_a_status_without_a_phrase_has_a_title(status: int, title: str) -> None:
    """The title of an unregistered status names its class."""
    assert Problem(status).title == title


@pytest.mark.parametrize("status", [200, 304, 399, 600])
def test_a_problem_is_an_error(status: int) -> None:
    """A status that is not an error raises ValueError."""
    with pytest.raises(ValueError, match=f"from 400 to 599, not {status}"):
        Problem(status)


def test_a_problem_can_always_be_encoded() -> None:
    """A lone surrogate, NaN, an object and bytes that are not UTF-8 do not fail."""
    problem = Problem(400, "\udcff", number=float("nan"), thing=object, raw=b"\xff")
    sent = members(problem_response(problem))
    assert sent["detail"] == "\udcff"
    assert sent["number"] is None
    assert sent["thing"] == "<class 'object'>"


def test_the_content_type_is_fixed() -> None:
    """The problem's headers cannot change the content type."""
    response = problem_response(Problem(400, headers={"content-type": "text/html"}))
    assert response.headers.getall("Content-Type") == ["application/problem+json"]


def test_connection_close_closes_the_connection() -> None:
    """The header makes the server close the connection, too."""
    assert problem_response(Problem(408, headers={"Connection": "close"})).keep_alive is False
    assert problem_response(Problem(408)).keep_alive is None


def test_an_error_of_aiohttp_becomes_a_problem() -> None:
    """aiohttp's automatic text repeats the status, so it is not used as the detail."""
    problem = problem_from(web.HTTPNotFound())
    assert problem is not None
    assert members(problem_response(problem)) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
    }


def test_the_texts_of_an_error_are_kept() -> None:
    """The text becomes the detail, the reason the title; headers and cookies are kept."""
    error = web.HTTPUnauthorized(
        text="log in",
        reason="No Session",
        headers={"WWW-Authenticate": "Bearer", "Content-Language": "en"},
    )
    error.del_cookie("session")
    problem = problem_from(error)

    assert problem is not None
    assert (problem.status, problem.detail, problem.title) == (401, "log in", "No Session")
    assert set(problem.headers) == {"WWW-Authenticate", "Set-Cookie"}
    assert problem.headers["Set-Cookie"].startswith('session="";')


def test_allow_is_kept() -> None:
    """A 405 response needs its Allow header."""
    problem = problem_from(web.HTTPMethodNotAllowed("PUT", ["GET"]))
    assert problem is not None
    assert problem.headers["Allow"] == "GET"


def test_a_limit_of_aiohttp_is_the_detail() -> None:
    """aiohttp's text about a large body becomes the detail."""
    problem = problem_from(web.HTTPRequestEntityTooLarge(10))
    assert problem is not None
    assert problem.detail == "Maximum request body size 10 exceeded."


@pytest.mark.parametrize(
    "error",
    [
        web.HTTPNotFound(text="{}", content_type="application/json"),
        web.HTTPNotFound(text="<p>", content_type="text/html"),
        web.HTTPFound("/elsewhere"),
        web.HTTPNotModified(),
        web.HTTPNoContent(),
        web.HTTPOk(),
    ],
)
def test_an_error_with_its_own_body_is_no_problem(error: web.HTTPException) -> None:
    """Redirects, successes and errors with a body in another format are sent unchanged."""
    assert problem_from(error) is None
