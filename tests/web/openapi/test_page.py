"""The docs page: it loads nothing else, escapes every text, and has a strict policy."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

import pytest

from gizmopy.web.openapi.page import docs_headers, docs_page


class Page(HTMLParser):
    """Parse a page to its elements, and the text in each kind of element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("link", "meta", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            tag = self._open[-1]
            self.texts[tag] = self.texts.get(tag, "") + data


def directives() -> dict[str, str]:
    """Return the directives of the page's policy."""
    policy = docs_headers()["Content-Security-Policy"]
    return dict(each.split(" ", 1) for each in policy.split("; "))


def test_the_page_loads_nothing_but_the_document() -> None:
    """The only URL in the page is the document's."""
    page = Page(docs_page("Cats", "/openapi.json"))
    urls = {
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("href", "src", "action", "srcset", "data")
    }
    assert urls == {"/openapi.json"}
    for tag in ("style", "script"):
        assert not any(word in page.texts[tag] for word in ("http:", "https:", "url(", "@import"))


def test_title_and_url_are_escaped() -> None:
    """Markup in them is text, in elements and in attributes."""
    evil = '"><script>alert(1)</script>{{openapi_url}}'
    page = Page(docs_page(evil, evil))
    assert page.texts["title"] == page.texts["h1"] == evil
    assert [attributes["href"] for _, attributes in page.elements if "href" in attributes] == [
        evil,
        evil,
    ]
    assert [tag for tag, _ in page.elements].count("script") == 1


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_allows_only_the_inline_script_and_style(tag: str) -> None:
    """They are allowed by their hashes; default-src forbids everything else."""
    page = Page(docs_page("Cats", "/openapi.json"))
    assert [each for each, _ in page.elements].count(tag) == 1
    digest = base64.b64encode(hashlib.sha256(page.texts[tag].encode()).digest()).decode()
    assert directives()[f"{tag}-src"] == f"'sha256-{digest}'"
    assert directives()["default-src"] == "'none'"


def test_the_page_needs_no_more_than_the_policy_allows() -> None:
    """Attributes contain no code or style, and the script makes no HTML of text."""
    page = Page(docs_page("Cats", "/openapi.json"))
    names = {name for _, attributes in page.elements for name in attributes}
    assert not any(name.startswith("on") or name == "style" for name in names)
    words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(")
    assert not any(word in page.texts["script"] for word in words)


def test_every_field_of_the_page_has_a_label() -> None:
    """Screen readers need labels and the language."""
    page = Page(docs_page("Cats", "/openapi.json"))
    labelled = {attributes["for"] for tag, attributes in page.elements if tag == "label"}
    fields = {attributes["id"] for tag, attributes in page.elements if tag == "input"}
    assert fields
    assert fields == labelled
    assert page.elements[0] == ("html", {"lang": "en"})


def test_the_page_is_html() -> None:
    """The headers and the doctype say so."""
    headers = docs_headers()
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert docs_page("Cats", "/openapi.json").startswith("<!doctype html>")
