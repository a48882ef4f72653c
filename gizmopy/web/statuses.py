"""The statuses of responses: their phrases, and those without a body."""

from __future__ import annotations

from http import HTTPStatus

BODILESS = (204, 304)
"""Statuses whose responses end with their head (RFC 9112 section 6.3).

A 205 has no content either, but its head says so: ``Content-Length: 0``.
"""


def phrase_of(status: int, unknown: str = "") -> str:
    """Return the phrase of ``status``, such as ``Not Found``; ``unknown`` if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return unknown
