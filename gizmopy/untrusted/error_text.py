"""Limit the text of an error to 1,024 characters.

An error of pydantic has a line for each wrong value: the text about a body of 1 MB had 59 MB. An
error of a handler may quote a whole message.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from pydantic_core import ValidationError

from gizmopy.untrusted.error_groups import leaves
from gizmopy.untrusted.hidden import masked
from gizmopy.untrusted.text import MAX_CHARACTERS, cut

MOST_LISTED = 100
"""The maximum number of wrong values that are listed; of more, only the number is shown."""

_MOST_LINKED = 100
"""The number of errors that ``shortened`` follows: causes, contexts, members of groups."""

_MOST_NAMED = 10
"""The number of members of a group that are named in one line."""

_SHORTEST_SECRET = 4
"""Shorter texts are not masked: a client could send one to hide the letters of an error."""


def too_many(error: ValidationError) -> str:
    """Return the number of wrong values and the type's name, or "" if each can be listed."""
    count = error.error_count()
    if count <= MOST_LISTED:
        return ""
    return f"{count} values are wrong in {cut(error.title)}, too many to list"


def text_of(error: BaseException, secrets: Sequence[str] = ()) -> str:
    """Return the text of ``error`` without ``secrets``, cut to 1,024 characters.

    For an error of pydantic with more than ``MOST_LISTED`` wrong values it has only their number.
    """
    try:
        if isinstance(error, ValidationError) and (summary := too_many(error)):
            return summary
        return cut(_masked(str(error), secrets))
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        return "(its text is not available)"


def describe_error(error: BaseException, secrets: Sequence[str] = ()) -> str:
    """Return the type of ``error`` and its text, if it has one: ``ValueError: no such cat``.

    Of a group it also names the members: its own text says only how many they are.

    Never log the ``repr`` of an error that gizmopy did not raise: that of a UnicodeEncodeError
    holds all of the text that could not be encoded, for example a password.
    """
    name, text = type(error).__name__, text_of(error, secrets)
    described = f"{name}: {text}" if text else name
    if isinstance(error, BaseExceptionGroup):
        named = (describe_error(each, secrets) for each in islice(leaves(error), _MOST_NAMED))
        return cut(f"{described}: {'; '.join(named)}")
    return described


def shortened(error: BaseException, secrets: Sequence[str] = ()) -> BaseException:
    """Return ``error`` for a log that writes its traceback.

    A traceback has the text of every cause, context and group member. If one of these texts or a
    note is longer than 1,024 characters, or contains one of ``secrets``, return a copy of the error
    and of its causes and contexts, with the same names and tracebacks, and with short texts without
    secrets. The copy of a group names its members in its text.
    """
    linked = _linked(error)
    if len(linked) < _MOST_LINKED and all(_is_plain(each, secrets) for each in linked.values()):
        return error
    copies = {key: _copy(each, secrets) for key, each in linked.items()}
    for key, each in linked.items():
        copy = copies[key]
        copy.__cause__ = copies.get(id(each.__cause__))
        copy.__context__ = copies.get(id(each.__context__))
        copy.__suppress_context__ = each.__suppress_context__
    return copies[id(error)]


def _linked(error: BaseException) -> dict[int, BaseException]:
    """Return ``error`` and the errors that its traceback shows beside it, by id."""
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting and len(found) < _MOST_LINKED:
        each = waiting.pop()
        if id(each) in found:
            continue
        found[id(each)] = each
        waiting += [e for e in (each.__cause__, each.__context__) if e is not None]
        waiting += _members(each)
    return found


def _members(error: BaseException) -> tuple[BaseException, ...]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _is_plain(error: BaseException, secrets: Sequence[str]) -> bool:
    """Return whether the texts of ``error`` can be logged as they are."""
    if isinstance(error, ValidationError) and too_many(error):
        return False
    try:
        texts = [str(each) for each in (error, *_notes(error))]
        return all(len(t) <= MAX_CHARACTERS and _masked(t, secrets) == t for t in texts)
    except Exception:  # noqa: BLE001 - the traceback module handles a broken __str__
        return True


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", ())
    return [str(note) for note in notes] if isinstance(notes, list | tuple) else []


def _masked(text: str, secrets: Sequence[str]) -> str:
    """Return ``text`` without ``secrets``, as they are or as ``repr`` writes them."""
    known = [each for each in secrets if len(each) >= _SHORTEST_SECRET]
    return masked(masked(text, known), [repr(each)[1:-1] for each in known])


def _copy(error: BaseException, secrets: Sequence[str]) -> BaseException:
    """Return an error with the name of ``error`` and the start of its text."""
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    members = "".join(f"\n{describe_error(member, secrets)}" for member in _members(error)[:10])
    text = text_of(error, secrets) + members
    copy: BaseException = type(kind.__name__, (Exception,), names)(cut(text))
    copy.__traceback__ = error.__traceback__
    for note in _notes(error):
        copy.add_note(cut(_masked(note, secrets)))
    return copy
