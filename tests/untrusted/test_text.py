"""Text from outside is cut and escaped in one way everywhere."""

from __future__ import annotations

import json

import pytest

from gizmopy.untrusted.text import as_lines, cut, escape, escape_json, quoted


def test_short_text_stays() -> None:
    """A text within the limit is returned as it is."""
    assert cut("abc", 3) == "abc"


def test_long_text_is_cut_and_says_so() -> None:
    """A longer text keeps its beginning and names its length."""
    assert cut("x" * 2000) == "x" * 1024 + "… (2000 characters)"


def test_printable_text_stays() -> None:
    """Letters of any language, spaces and backslashes are not escaped."""
    assert escape("Käse, 猫 and C:\\new") == "Käse, 猫 and C:\\new"


@pytest.mark.parametrize(
    ("character", "escaped"),
    [
        ("\x1b", "\\x1b"),  # begins a terminal's command
        ("\x9b", "\\x9b"),  # the same in one character (C1)
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\x85", "\\x85"),  # a line end to some readers
        ("\u2028", "\\u2028"),
        ("\u202e", "\\u202e"),  # shows the rest of the line backwards
        ("\u2066", "\\u2066"),
        ("\udc80", "\\udc80"),  # a byte that was not UTF-8
    ],
)
def test_unprintable_characters_are_escaped(character: str, escaped: str) -> None:
    """A character that a terminal or a log reader would obey is written as text."""
    assert escape(f"a{character}b") == f"a{escaped}b"


def test_kept_characters_stay() -> None:
    """The caller decides which line ends stay."""
    assert escape("a\n\x1bb\r", keep="\n") == "a\n\\x1bb\\r"


def test_no_text_begins_a_line_of_its_own() -> None:
    """Line ends stay, and what follows one is indented."""
    assert as_lines("a\nb\r\n\nc\td\x1b") == "a\n  b\\r\n  \n  c\td\\x1b"


@pytest.mark.parametrize(
    "character", ["\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\ud800", "\U000e0001", "\n"]
)
def test_json_is_printable_and_has_the_same_value(character: str) -> None:
    """What JSON leaves as it is, and a terminal obeys, is written as JSON can write it."""
    value = {f"a{character}": [f"b{character}", "猫", '"\\']}
    text = escape_json(json.dumps(value, ensure_ascii=False))

    assert text.isprintable()
    assert json.loads(text) == value


def test_quoted_text_is_escaped_and_cut() -> None:
    """Any text is quoted as one printable line of a kilobyte."""
    assert quoted("a\n") == "a\\n"
    for text in ("x" * 10**6, "\x1b" * 10**6, "\U000e0001" * 2000):
        assert quoted(text).isprintable()
        assert len(quoted(text)) < 1100
