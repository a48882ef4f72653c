"""Find the place in the code of a service: the innermost frame that belongs to no library."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_LIBRARIES = (
    *{f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    f"{Path(__file__).parents[1]}/",
    "<frozen ",
)


class Frame(NamedTuple):
    """A place in the code; a C function has an empty file and line 0."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        """Return it as ``function (file.py:12)``."""
        line = f":{self.line}" if self.line else ""  # compiled code has none
        return f"{self.function} ({Path(self.file).name}{line})"


def frame_at(frame: FrameType) -> Frame:
    """Return the place where a call is now."""
    code = frame.f_code
    return Frame(code.co_qualname, code.co_filename, frame.f_lineno or 0)


def frames_of(innermost: FrameType | None) -> Iterator[Frame]:
    """Yield the places of a thread's stack, the innermost first."""
    while innermost is not None:
        yield frame_at(innermost)
        innermost = innermost.f_back


def frames_of_error(error: BaseException) -> list[Frame]:
    """Return the places of an error's traceback, the innermost first."""
    places = [
        Frame(frame.f_code.co_qualname, frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return places[::-1]


def own_place(innermost_first: Iterable[Frame]) -> Frame | None:
    """Return the innermost place outside of libraries, else the innermost; None without one."""
    frames = list(innermost_first)
    own = (frame for frame in frames if frame.file and not frame.file.startswith(_LIBRARIES))
    return next(own, frames[0] if frames else None)
