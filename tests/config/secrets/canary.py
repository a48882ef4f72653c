"""A secret that is easy to search for, and the search for it in every spelling."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Iterator

LEFT = "Qzleftcanary"
RIGHT = "Zqrightcanary"
"""Words that no escaping changes: each spelling of a canary contains one of them."""

CANARIES = {
    "not UTF-8": f"{LEFT}\udcff{RIGHT}",
    "a lone surrogate": f"{LEFT}\ud800{RIGHT}",
    "control characters": f"{LEFT}\x1b[31m\x07{RIGHT}",
    "a line break": f"{LEFT}\r\n{RIGHT}",
    "not in the BMP": f"{LEFT}\U0001f408{RIGHT}",
    "bidirectional": f"{LEFT}\u202e{RIGHT}",
    "quotes": f"{LEFT}'\"`\\{RIGHT}",
    "a blank": f"{LEFT} {RIGHT}",
    "very long": LEFT + "x" * 100_000 + RIGHT,
}
UNREADABLE = ("not UTF-8", "a lone surrogate")
"""The canaries that no setting takes."""


def assert_unseen(text: str) -> None:
    """Assert that no part of a canary is in ``text``: unchanged, in base64 or in hexadecimal."""
    folded = text.lower()
    for part in _PARTS:
        assert part.lower() not in folded, f"{part!r} is seen in {text[:2000]!r}"


def shown_by(error: BaseException) -> Iterator[str]:
    """Yield every text of an error and of the errors in its chain."""
    yield from (str(error), repr(error), *map(repr, error.args))
    yield "".join(traceback.format_exception(error))
    for chained in (error.__cause__, error.__context__):
        if chained is not None:
            yield from shown_by(chained)


def written(name: str, text: str, format_: str) -> str:
    """Return the text of a file that sets one setting, by its dotted name."""
    *sections, key = name.split(".")
    # ASCII only: JSON, TOML and YAML all accept a string as JSON writes it.
    quoted = json.dumps(text)
    if format_ == "toml":
        quoted = json.dumps(text, ensure_ascii=False) if text.isprintable() else quoted
        return "".join(f"[{'.'.join(sections)}]\n" if sections else "") + f"{key} = {quoted}\n"
    value = f'{{"{key}": {quoted}}}'
    for section in reversed(sections):
        value = f'{{"{section}": {value}}}'
    return value


def _parts() -> Iterator[str]:
    for word in (LEFT, RIGHT):
        yield word[:8]
        yield word[-10:]
        yield word.encode().hex()
        for shift in range(3):
            coded = base64.b64encode(b"\0" * shift + word.encode())
            yield coded[4:-4].decode()  # the other characters depend on the text beside it


_PARTS = tuple(dict.fromkeys(_parts()))
