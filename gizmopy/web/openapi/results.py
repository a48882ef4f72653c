"""Describe the responses of an endpoint from the annotation of its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gizmopy.web.openapi.schemas import TypeSchema
from gizmopy.web.results import STATUSES_WITHOUT_BODY, ResultValue, read_result

MediaTypes = Mapping[str, Sequence[TypeSchema]]
"""The types that a body may have, by media type; none if nothing is known of them."""

ANY_SUCCESS = "2XX"
"""The status of responses whose exact status is only known when the endpoint returns."""

_ANY_MEDIA_TYPE = "*/*"


def responses_of(location: str, annotation: Any, json_content_type: str) -> dict[str, MediaTypes]:
    """Return the responses of an endpoint that returns ``annotation``, by status.

    ``location`` names the endpoint in log messages.
    """
    result = read_result(annotation)
    responses: dict[str, dict[str, list[TypeSchema]]] = {}
    for status, value in _by_status(result.alone, result.with_status, result.by_status):
        media_types = responses.setdefault(status, {})
        if status.isdigit() and int(status) in STATUSES_WITHOUT_BODY:
            continue
        if value.bytes_types:
            media_types["application/octet-stream"] = []
        if value.is_undeclared or value.has_response:
            media_types[_ANY_MEDIA_TYPE] = []
        schemas = [TypeSchema(location, "serialization", each) for each in value.types]
        if schemas:
            media_types.setdefault(json_content_type, []).extend(schemas)
    return dict(responses)


def _by_status(
    alone: ResultValue, with_status: ResultValue | None, by_status: Mapping[int, ResultValue]
) -> Iterator[tuple[str, ResultValue]]:
    """Yield each status of the document with the values that are sent with it."""
    if alone.types or alone.bytes_types:
        yield "200", ResultValue(types=alone.types, bytes_types=alone.bytes_types)
    if alone.is_undeclared or alone.has_response:
        yield ANY_SUCCESS, ResultValue(has_response=True)
    if alone.has_none:
        yield "204", ResultValue()
    for status, value in by_status.items():
        yield str(status), value
    if with_status is not None:
        yield ANY_SUCCESS, with_status
