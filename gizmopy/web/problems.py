"""Answer a request with an error: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aiohttp import web
from multidict import CIMultiDict
from pydantic_core import ValidationError, to_jsonable_python

from gizmopy.untrusted.error_text import too_many
from gizmopy.untrusted.input_errors import details_of, field_of, message_of
from gizmopy.untrusted.text import cut
from gizmopy.web.statuses import phrase_of

CONTENT_TYPE = "application/problem+json"

FieldError = Mapping[str, str]
"""The fault of one field: ``in``, ``field``, ``message``, and pydantic's ``type`` of the error."""


class Problem(Exception):
    """Answer a request with an error: ``raise Problem(404, "There is no cat 17.")``.

    ``status`` is 400 to 599; ValueError is raised for any other. ``title`` names the kind of
    problem (default: the phrase of the status), and ``type`` is its URI; ``detail`` describes this
    occurrence. ``headers`` are added to the response. ``errors`` lists wrong fields, and each of
    ``extensions`` becomes one more member of the JSON object.
    """

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        title: str | None = None,
        type: str = "about:blank",
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldError] = (),
        **extensions: object,
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a problem has a status from 400 to 599, not {status}")
        self.status = int(status)
        self.detail = detail
        self.title = _phrase(self.status) if title is None else title
        self.type = type
        self.headers = CIMultiDict(headers or {})
        self.errors = tuple(errors)
        self.extensions = extensions
        super().__init__(f"{self.status} {self.title}: {detail}")

    def copy(self) -> Problem:
        """Return a problem that is sent alike, to add headers to it."""
        return Problem(
            self.status,
            self.detail,
            title=self.title,
            type=self.type,
            headers=self.headers,
            errors=self.errors,
            **self.extensions,
        )


def problem_response(problem: Problem, *, request_id: str = "") -> web.Response:
    """Return the response for ``problem``, with ``request_id`` as a member unless it is empty.

    A value without a JSON form is sent as text. A header ``Connection: close`` closes the
    connection after the response.
    """
    optional = {"detail": problem.detail, "errors": problem.errors, "request_id": request_id}
    members = {
        **problem.extensions,
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        **{name: value for name, value in optional.items() if value},
    }
    jsonable = to_jsonable_python(
        members, by_alias=True, bytes_mode="base64", inf_nan_mode="null", fallback=str
    )
    response = web.Response(status=problem.status, headers=problem.headers)
    # json writes ASCII only. A detail may quote a path that is not UTF-8; pydantic's to_json would
    # fail at its lone surrogates.
    response.body = json.dumps(jsonable).encode()
    response.headers["Content-Type"] = CONTENT_TYPE
    if response.headers.get("Connection", "").lower() == "close":
        response.force_close()
    return response


def problem_from(error: web.HTTPException) -> Problem | None:
    """Return the problem for an error of aiohttp; None if it has its own body, or is no error.

    A plain text becomes the detail, unless it is the one that aiohttp writes for every error.
    Headers and cookies are kept, except headers about the content.
    """
    if error.status < 400 or error.content_type != "text/plain":
        return None
    automatic = f"{error.status}: {error.reason}"
    text = error.text or ""
    title = error.reason if error.reason != _phrase(error.status) else None
    problem = Problem(error.status, "" if text == automatic else text, title=title)
    for name, value in error.headers.items():
        if not name.lower().startswith("content-"):
            problem.headers.add(name, value)
    for cookie in error.cookies.values():
        problem.headers.add("Set-Cookie", cookie.OutputString())
    return problem


def field_errors(
    location: str,
    prefix: str,
    error: ValidationError,
    names: Mapping[Any, str] = MappingProxyType({}),
) -> list[FieldError]:
    """Return the fault of each wrong field in ``location``, without the values that were sent.

    ``names`` has the name in the request of each field of a model that has another name there.

    Two texts may still come from the client: the name of a field may contain keys of a dict, and
    the service's own validator may quote a value in its message.
    """
    # A body of 1 MB can have half a million wrong fields. To list them takes a second and hundreds
    # of megabytes, so more than a hundred are only counted.
    if summary := too_many(error):
        return [field_error(location, prefix, summary, "too_many_errors")]
    fields: list[FieldError] = []
    for each in details_of(error):
        path = (prefix, *each["loc"]) if prefix else each["loc"]
        if names and path:
            path = (names.get(path[0], path[0]), *path[1:])
        field, message = field_of(path), message_of(each)
        fields.append({"in": location, "field": field, "message": message, "type": each["type"]})
    return fields


def field_error(location: str, field: str, message: str, kind: str) -> FieldError:
    """Return the fault of one field; ``kind`` is pydantic's type of the error.

    The name and the message are truncated to 1,024 characters.
    """
    return {"in": location, "field": cut(field), "message": cut(message), "type": kind}


def validation_problem(errors: Sequence[FieldError]) -> Problem:
    """Return the problem (422) of a request with wrong values."""
    return Problem(422, "The request has wrong values: see errors.", errors=errors)


def _phrase(status: int) -> str:
    return phrase_of(status, "Client Error" if status < 500 else "Server Error")
