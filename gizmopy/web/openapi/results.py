"""Describe the responses of an endpoint from the annotation of its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gizmopy.web.decorators import Route
from gizmopy.web.openapi.schemas import TypeSchema
from gizmopy.web.responses import media_types_of
from gizmopy.web.results import (
    STATUSES_WITHOUT_BODY,
    Result,
    ResultValue,
    is_undeclared,
    result_of,
)
from gizmopy.web.stream_results import StreamFormat, stream_format

MediaTypes = Mapping[str, Sequence[TypeSchema]]
"""The types that a body may have, by media type; none if nothing is known of them."""

ANY_SUCCESS = "2XX"
"""The status of responses whose exact status is only known when the endpoint returns."""

PARTIAL = "206"
"""The status of a part of a file."""

_ANY_MEDIA_TYPE = "*/*"


def responses_of(location: str, route: Route, json_content_type: str) -> dict[str, MediaTypes]:
    """Return the responses of the endpoint of ``route``, by status.

    ``location`` names the endpoint in log messages.
    """
    result = result_of(route)
    bytes_type, json_type = media_types_of(route, json_content_type)
    responses: dict[str, dict[str, list[TypeSchema]]] = {}
    for status, value in _every_status(result):
        media_types = responses.setdefault(status, {})
        if status.isdigit() and int(status) in STATUSES_WITHOUT_BODY:
            continue
        if value.bytes_types:
            media_types[bytes_type] = []
        if value.streams:
            form = stream_format(route, value)
            media_types[form.media_type] = _items(location, form)
        if value.is_undeclared or value.has_response or value.has_file:
            media_types[_ANY_MEDIA_TYPE] = []
        schemas = [TypeSchema(location, "serialization", each) for each in value.types]
        if schemas:
            media_types.setdefault(json_type, []).extend(schemas)
    return dict(responses)


def _items(location: str, form: StreamFormat) -> list[TypeSchema]:
    """Return the types of the items that are JSON; none if nothing is known of an item."""
    if form.is_raw or any(is_undeclared(each) for each in form.types):
        return []
    types = [each for each in form.types if not (form.is_events and each is str)]
    return [TypeSchema(location, "serialization", each, is_item=True) for each in types]


def _every_status(result: Result) -> Iterator[tuple[str, ResultValue]]:
    for each in (result, *(inner for _, inner in result.with_headers)):
        yield from _by_status(each.alone, each.with_status, each.by_status)


@dataclass(frozen=True, slots=True)
class HeaderSchema:
    """A header of a response."""

    name: str
    is_required: bool
    schema: TypeSchema


def headers_of(location: str, route: Route) -> dict[str, list[HeaderSchema]]:
    """Return the headers of the responses of the endpoint of ``route``, by status."""
    headers: dict[str, list[HeaderSchema]] = {}
    plain = result_of(route)
    without = {status for status, _ in _by_status(plain.alone, plain.with_status, plain.by_status)}
    for shape, result in plain.with_headers:
        for status, _ in _by_status(result.alone, result.with_status, result.by_status):
            for each in shape.headers:
                named = f"{location}: header {each.name}"
                schema = TypeSchema(named, "serialization", each.annotation)
                is_required = not each.is_optional and status not in without
                headers.setdefault(status, []).append(HeaderSchema(each.name, is_required, schema))
    return headers


def _by_status(
    alone: ResultValue, with_status: ResultValue | None, by_status: Mapping[int, ResultValue]
) -> Iterator[tuple[str, ResultValue]]:
    """Yield each status of the document with the values that are sent with it."""
    if alone.types or alone.bytes_types or alone.streams:
        yield (
            "200",
            ResultValue(types=alone.types, bytes_types=alone.bytes_types, streams=alone.streams),
        )
    if alone.has_file:
        yield "200", ResultValue(has_file=True)
        yield PARTIAL, ResultValue(has_file=True)
        yield "304", ResultValue()
    if alone.is_undeclared or alone.has_response:
        yield ANY_SUCCESS, ResultValue(has_response=True)
    if alone.has_none:
        yield "204", ResultValue()
    for status, value in by_status.items():
        yield str(status), value
    if with_status is not None:
        yield ANY_SUCCESS, with_status
