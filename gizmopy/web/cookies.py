"""Read the cookies of a request (RFC 6265 section 5.4).

aiohttp's ``request.cookies`` cuts a value at its first space, drops a cookie whose name has a
character that it does not know, and returns the last of two cookies with one name: that of the
shorter path.
"""

from __future__ import annotations

import re

from aiohttp import web
from multidict import MultiDict, MultiMapping, istr

_COOKIE = istr("Cookie")
_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


def cookies_of(request: web.Request) -> MultiMapping[str]:
    """Return the cookies of ``request`` in the order of the header.

    Browsers send the cookie of the longest path first, so the first one of a name counts. A value
    in quotation marks is unquoted as ``http.cookies`` quotes it; every other one is as it was sent.
    """
    found: MultiDict[str] = MultiDict()
    for header in request.headers.getall(_COOKIE, ()):
        for pair in header.split(";"):
            name, separator, value = pair.partition("=")
            if separator and (name := name.strip(" \t")):
                found.add(name, _unquoted(value.strip(" \t")))
    return found


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPED.sub(_character, value[1:-1])


def _character(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 8)) if escaped[1] else escaped[2]
