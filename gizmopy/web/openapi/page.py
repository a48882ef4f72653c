"""Make the page that shows an OpenAPI document and tries requests; it needs nothing from elsewhere.

The page is ``page.html`` beside this file. Its one script and one style stand in it and are always
the same, so that a content security policy can name them by their hashes and forbid all else: what
a document says is put into the page as text, and could do nothing were it more.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files


def docs_page(title: str, openapi_url: str) -> str:
    """Return the page, HTML, for the document at ``openapi_url``, of the same origin."""
    page = _template().replace("{{openapi_url}}", escape(openapi_url))
    return page.replace("{{title}}", escape(title))


def docs_headers() -> dict[str, str]:
    """Return the headers to answer the page with."""
    return page_headers(_template())


def page_headers(page: str) -> dict[str, str]:
    """Return the headers of a page with one script and one style: its type, and all it may do.

    It may run its own script, ask its own origin, and be framed by no other page.
    """
    policy = {
        "default-src": "'none'",
        "script-src": _source(page, "script"),
        "style-src": _source(page, "style"),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
    }


def _source(page: str, tag: str) -> str:
    """Return the hash that a policy allows the text of the page's one ``tag`` by."""
    text = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _template() -> str:
    return (files("gizmopy.web.openapi") / "page.html").read_text(encoding="utf-8")
