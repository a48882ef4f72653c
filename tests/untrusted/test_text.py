"""Text from outside is cut and escaped in the same way everywhere."""

from __future__ import annotations

import json

import pytest

from gizmopy.untrusted.text import as_lines, cut, escape, escape_json, quoted


def test_short_text_is_not_changed() -> None:
    """A text within the limit is returned unchanged."""
    assert cut("abc", 3) == "abc"


def test_long_text_is_cut_with_its_length() -> None:
    """The result has the start of a longer text and its length."""
    assert cut("x" * 2000) == "x" * 1024 + "… (2000 characters)"


def test_printable_text_is_not_changed() -> None:
    """Letters of any language, spaces and backslashes are not escaped."""
    assert escape("Käse, 猫 and C:\\new") == "Käse, 猫 and C:\\new"


@pytest.mark.parametrize(
    ("character", "escaped"),
    [
        ("\x1b", "\\x1b"),  # starts a terminal's escape sequence
        ("\x9b", "\\x9b"),  # the same as one character (C1)
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\x85", "\\x85"),  # a line end for some programs
        ("\u2028", "\\u2028"),
        ("\u202e", "\\u202e"),  # shows the rest of the line backwards
        ("\u2066", "\\u2066"),
        ("\udc80", "\\udc80"),  # a byte that was not UTF-8
    ],
)
def test_unprintable_characters_are_escaped(character: str, escaped: str) -> None:
    """Characters that control a terminal or end a line are written as escapes."""
    assert escape(f"a{character}b") == f"a{escaped}b"


def test_kept_characters_are_not_escaped() -> None:
    """The caller decides which characters are not escaped."""
    assert escape("a\n\x1bb\r", keep="\n") == "a\n\\x1bb\\r"


def test_no_text_can_imitate_a_line() -> None:
    """Line ends are kept, and the text after one is indented."""
    assert as_lines("a\nb\r\n\nc\td\x1b") == "a\n  b\\r\n  \n  c\td\\x1b"


@pytest.mark.parametrize(
    "character", ["\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\ud800", "\U000e0001", "\n"]
)
def test_json_is_printable_and_has_the_same_value(character: str) -> None:
    """Control characters that JSON does not escape are escaped as JSON allows it."""
    value = {f"a{character}": [f"b{character}", "猫", '"\\']}
    text = escape_json(json.dumps(value, ensure_ascii=False))

    assert text.isprintable()
    assert json.loads(text) == value


def test_quoted_text_is_escaped_and_cut() -> None:
    """Any text becomes one printable line of at most a kilobyte."""
    assert quoted("a\n") == "a\\n"
    for text in ("x" * 10**6, "\x1b" * 10**6, "\U000e0001" * 2000):
        assert quoted(text).isprintable()
        assert len(quoted(text)) < 1100
