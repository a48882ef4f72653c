"""Make the page that displays an OpenAPI document and sends requests; it loads nothing else.

The page is ``page.html`` beside this file. Its one script and its one style are inline and always
the same, so a content security policy can allow them by their hashes and forbid all others. The
script inserts the document's texts as text, never as HTML; if one contained a script, the policy
would not run it.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files


def docs_page(title: str, openapi_url: str) -> str:
    """Return the HTML page for the document at ``openapi_url``, which has the same origin."""
    page = _template().replace("{{openapi_url}}", escape(openapi_url))
    return page.replace("{{title}}", escape(title))


def docs_headers() -> dict[str, str]:
    """Return the headers of the response with the page."""
    return page_headers(_template())


def page_headers(page: str) -> dict[str, str]:
    """Return the content type and the security policy of a page with one script and one style.

    The page may run its own script and send requests to its own origin. No page may frame it.
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
    """Return the policy source for the text of the page's one ``tag``: its hash."""
    text = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _template() -> str:
    return (files("gizmopy.web.openapi") / "page.html").read_text(encoding="utf-8")
