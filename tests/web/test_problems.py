"""Problem details: what is in an answer, and what becomes of aiohttp's own errors."""

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
    """Return the members of a problem's answer."""
    assert response.content_type == "application/problem+json"
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_a_problem_is_its_status() -> None:
    """Without more, a problem has the standard members that say what the status says."""
    response = problem_response(Problem(404))
    assert response.status == 404
    assert members(response) == {"type": "about:blank", "title": "Not Found", "status": 404}


def test_a_problem_says_all_it_has() -> None:
    """Detail, errors, extensions, the request's id and headers are in the answer."""
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


def test_a_problem_reads_well_in_a_log() -> None:
    """As an exception it says status, title and detail."""
    assert str(Problem(404, "no such cat")) == "404 Not Found: no such cat"


@pytest.mark.parametrize(
    ("status", "title"), [(499, "Client Error"), (599, "Server Error"), (418, "I'm a Teapot")]
)
def test_a_status_without_a_phrase_has_a_title(status: int, title: str) -> None:
    """Unregistered statuses are named by their class."""
    assert Problem(status).title == title


@pytest.mark.parametrize("status", [200, 304, 399, 600])
def test_a_problem_is_an_error(status: int) -> None:
    """A status that is no error's is a mistake."""
    with pytest.raises(ValueError, match=f"from 400 to 599, not {status}"):
        Problem(status)


def test_a_problem_can_always_be_told() -> None:
    """What has no JSON form is told as text: a lone surrogate, NaN, an object, a broken text."""
    problem = Problem(400, "\udcff", number=float("nan"), thing=object, raw=b"\xff")
    told = members(problem_response(problem))
    assert told["detail"] == "\udcff"
    assert told["number"] is None
    assert told["thing"] == "<class 'object'>"


def test_the_content_type_is_the_problems() -> None:
    """Headers cannot change what the body is."""
    response = problem_response(Problem(400, headers={"content-type": "text/html"}))
    assert response.headers.getall("Content-Type") == ["application/problem+json"]


def test_connection_close_closes() -> None:
    """The header that announces the end of a connection also brings it."""
    assert problem_response(Problem(408, headers={"Connection": "close"})).keep_alive is False
    assert problem_response(Problem(408)).keep_alive is None


def test_an_error_of_aiohttp_becomes_a_problem() -> None:
    """The automatic text says no more than the status does, so there is no detail."""
    problem = problem_from(web.HTTPNotFound())
    assert problem is not None
    assert members(problem_response(problem)) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
    }


def test_what_the_raiser_said_is_kept() -> None:
    """Text becomes the detail, a reason the title, headers and cookies stay."""
    error = web.HTTPUnauthorized(
        text="who?",
        reason="Stranger",
        headers={"WWW-Authenticate": "Bearer", "Content-Language": "en"},
    )
    error.del_cookie("session")
    problem = problem_from(error)

    assert problem is not None
    assert (problem.status, problem.detail, problem.title) == (401, "who?", "Stranger")
    assert set(problem.headers) == {"WWW-Authenticate", "Set-Cookie"}
    assert problem.headers["Set-Cookie"].startswith('session="";')


def test_allow_is_kept() -> None:
    """The headers that a status needs survive."""
    problem = problem_from(web.HTTPMethodNotAllowed("PUT", ["GET"]))
    assert problem is not None
    assert problem.headers["Allow"] == "GET"


def test_a_limit_of_aiohttp_is_told() -> None:
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
def test_a_body_of_its_own_stands(error: web.HTTPException) -> None:
    """Redirects, successes and errors with a body in another format are answered as they are."""
    assert problem_from(error) is None
