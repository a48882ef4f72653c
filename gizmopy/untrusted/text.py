"""Prepare text from outside for an error, a log line, a response or a message attribute.

A sender chooses the length and the characters of its text. Quoted unchanged, one message made a
log line of 17 MB, and an escape sequence made a terminal run a command.
"""

from __future__ import annotations

MAX_CHARACTERS = 1024
"""The maximum number of characters of one quoted text."""


def cut(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return ``text``, or its first ``limit`` characters and a note of the original length."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text)} characters)"


def is_utf8(data: bytes) -> bool:
    """Return whether ``data`` is text in UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_unicode(text: str) -> bool:
    """Return whether ``text`` has no lone surrogates, so that it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape(text: str, *, keep: str = "") -> str:
    r"""Return ``text`` with each unprintable character written as in Python: ``\x1b``, ``\u202e``.

    Unprintable are control characters (C0 and C1), line and paragraph separators, lone surrogates,
    and the invisible characters that reorder text (https://trojansource.codes). Characters in
    ``keep`` are not changed. Printable backslashes are not doubled: the result is for people to
    read, not for a program to decode.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )


def as_lines(text: str) -> str:
    """Return ``text`` escaped, but with its line ends, for a terminal or a log of lines.

    Each line after the first is indented by two spaces, so that no text can imitate a line of the
    log.
    """
    return escape(text, keep="\n\t").replace("\n", "\n  ")


def escape_json(text: str) -> str:
    r"""Return a JSON text of the same value, its unprintable characters written as ``\u009b``.

    ``text`` is JSON on one line. JSON itself escapes only the controls below U+0020. A terminal
    also obeys those from U+007F on, and many programs end a line at U+0085 or U+2028.
    """
    if (text.isascii() and "\x7f" not in text) or text.isprintable():  # isascii is faster
        return text
    return "".join([each if each.isprintable() else _utf_16(each) for each in text])


def _utf_16(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex(" ", 2)
    return "".join([f"\\u{unit}" for unit in units.split()])


def quoted(text: str) -> str:
    """Return ``text`` escaped and cut, on one line, for a terminal or an attribute."""
    return cut(escape(cut(text)))  # cut first: to escape a megabyte takes a second
