"""Say what went wrong with a request: problem details, as RFC 9457 defines them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict
from pydantic_core import ValidationError, to_jsonable_python

from gizmopy.untrusted.error_text import too_many
from gizmopy.untrusted.input_errors import details_of, field_of, message_of
from gizmopy.untrusted.text import cut

CONTENT_TYPE = "application/problem+json"

FieldError = Mapping[str, str]
"""What is wrong with one field: ``in``, ``field``, ``message`` and ``type`` (pydantic's)."""


class Problem(Exception):
    """Answer a request with an error: ``raise Problem(404, "there is no such cat")``.

    ``status`` is 400 to 599 (ValueError otherwise). ``title`` names the kind of problem (default:
    the status's phrase) and ``type`` is its URI; ``detail`` is about this occurrence. ``headers``
    are sent too; ``extensions`` become members of the answer beside the standard ones.
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


def problem_response(problem: Problem, *, request_id: str = "") -> web.Response:
    """Return the answer that ``problem`` is, with ``request_id`` as a member where there is one.

    What has no JSON form appears as text. A header ``Connection: close`` closes the connection
    after the answer.
    """
    optional = {"detail": problem.detail, "errors": problem.errors, "request_id": request_id}
    members = {
        **problem.extensions,
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        **{name: value for name, value in optional.items() if value},
    }
    plain = to_jsonable_python(
        members, by_alias=True, bytes_mode="base64", inf_nan_mode="null", fallback=str
    )
    response = web.Response(status=problem.status, headers=problem.headers)
    response.body = json.dumps(plain).encode()  # in ASCII: a path may hold what is no UTF-8
    response.headers["Content-Type"] = CONTENT_TYPE
    if response.headers.get("Connection", "").lower() == "close":
        response.force_close()
    return response


def problem_from(error: web.HTTPException) -> Problem | None:
    """Return ``error`` as a problem, or None where it has a body of its own, or is no error.

    A plain text is no body of its own: aiohttp makes one for every error, and what a raiser says
    in its place becomes the detail. Headers and cookies stay, except those about the content.
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


def wrong_fields(place: str, prefix: str, error: ValidationError) -> list[FieldError]:
    """Return the faults of each field in ``place``, and not the values sent there.

    Keys of a dict that the client chose are in the name of a field, and a validator of the service
    may quote a value.

    Of more than a hundred wrong fields only their number is returned: to list the half a million
    that a body of 1 MB may have takes a second, and hundreds of megabytes.
    """
    if summary := too_many(error):
        return [field_error(place, prefix, summary, "too_many_errors")]
    fields: list[FieldError] = []
    for each in details_of(error):
        location = (prefix, *each["loc"]) if prefix else each["loc"]
        field, message = field_of(location), message_of(each)
        fields.append({"in": place, "field": field, "message": message, "type": each["type"]})
    return fields


def field_error(place: str, field: str, message: str, kind: str) -> FieldError:
    """Return the fault of one field; ``kind`` is pydantic's name for such an error.

    Both texts are cut to 1,024 characters.
    """
    return {"in": place, "field": cut(field), "message": cut(message), "type": kind}


def wrong_values(errors: Sequence[FieldError]) -> Problem:
    """Return the problem of a request whose values are wrong, 422."""
    return Problem(422, "The request has wrong values: see errors.", errors=errors)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Error" if status < 500 else "Server Error"
