"""Read the responses of an endpoint from the annotation of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, Never, NoReturn, get_args, get_origin

from aiohttp import web

from gizmopy.declaration import REQUIRED
from gizmopy.web.annotations import UNIONS, alias_target
from gizmopy.web.openapi.schemas import TypeSchema

MediaTypes = Mapping[str, Sequence[TypeSchema]]
"""The types that a body may have, by media type; none if nothing is known of them."""

ANY_SUCCESS = "2XX"
"""The status of responses whose exact status is only known when the endpoint returns."""

_ANY_MEDIA_TYPE = "*/*"
_STATUSES_WITHOUT_BODY = ("204", "205", "304")


def responses_of(location: str, annotation: Any, json_content_type: str) -> dict[str, MediaTypes]:
    """Return the responses of an endpoint that returns ``annotation``, by status.

    ``location`` names the endpoint in log messages.
    """
    responses: dict[str, dict[str, list[TypeSchema]]] = {}
    for member in _members(annotation):
        statuses, value = _split(member)
        for status, each in ((status, each) for status in statuses for each in _members(value)):
            media_types = responses.setdefault(status, {})
            if each is NoneType or status in _STATUSES_WITHOUT_BODY:
                continue
            if _is_class(each, (bytes, bytearray)):
                media_types["application/octet-stream"] = []
            elif _is_unknown(each):
                media_types[_ANY_MEDIA_TYPE] = []
            else:
                schema = TypeSchema(location, "serialization", each)
                media_types.setdefault(json_content_type, []).append(schema)
    return dict(responses)


def _split(member: Any) -> tuple[list[str], Any]:
    """Return the statuses of ``member``, and the type of the value that comes with them."""
    arguments = get_args(member)
    if get_origin(member) is tuple and len(arguments) == 2 and arguments[1] is not Ellipsis:
        status, value = arguments
        literals = get_args(status) if get_origin(status) is Literal else ()
        if literals and all(_is_status(type(each)) for each in literals):
            return [str(int(each)) for each in literals], value
        if _is_status(status):
            return [ANY_SUCCESS], value
    if member is NoneType:
        return ["204"], member
    if member in (NoReturn, Never):
        return [], member
    return [ANY_SUCCESS if _is_unknown(member) else "200"], member


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the one type."""
    if annotation is None:
        return [NoneType]
    if (target := alias_target(annotation)) is not None and get_origin(target) in UNIONS:
        return _members(target)
    if get_origin(annotation) in UNIONS:
        return [each for member in get_args(annotation) for each in _members(member)]
    return [annotation]


def _is_status(annotation: Any) -> bool:
    return _is_class(annotation, int) and annotation is not bool


def _is_class(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, kinds)


def _is_unknown(annotation: Any) -> bool:
    """Return whether nothing is known of the response: no annotation, or a response of aiohttp."""
    return annotation in (REQUIRED, Any, object) or _is_class(annotation, web.StreamResponse)
