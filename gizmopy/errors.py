"""Every error that gizmopy raises, and the two that a message handler may raise to steer it.

    GizmoError
    ├── ConfigError            settings cannot be read: every problem, not only the first
    ├── DeclarationError       a mistake in a service's source: file, line and method
    ├── StartError             the daemon cannot start: a port is taken, a resource is missing
    ├── UsageError             a call that cannot be right: publishing on what is closed
    └── PubSubError            a broker refused or failed; ``transient``: trying again may help
        ├── UnknownScheme      no driver is registered for a URL's scheme
        ├── DriverNotInstalled the driver's library is missing: names the extra to install
        ├── NotFound           the topic, queue or subscription does not exist
        └── UndecodableMessage a body that its codec cannot read
    HandlerOutcome
    ├── Retry                  handle this message again, later
    └── Reject                 never handle this message again: dead-letter it

A reply to a request (``gizmopy.web.Problem``) is an answer, not a failure, and stands with the
words of HTTP. An error is raised once, translated where a library's error crosses into gizmopy,
and logged once, at the door it came in by.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gizmopy.untrusted.hidden import hidden
from gizmopy.untrusted.text import cut, escape


class GizmoError(Exception):
    """Stand above every error of gizmopy."""

    exit_code = 1
    """What a daemon that ends on this error tells its parent."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """Say what is wrong with one setting."""

    name: str
    """The setting as its source spells it: ``HTTP_PORT``, ``--http-port``, ``http_port``."""
    reason: str
    remedy: str
    source: str = ""
    """Where the value came from: ``environment``, ``command line``, a file's path."""
    value: str | None = None
    """The value given; None where there is none, masked where it is a secret."""
    size: str = ""
    """The length of a value that must not be shown in any part: ``12 characters``."""

    def __str__(self) -> str:
        if self.size:
            given = f"={hidden(self.size, self.source)}"
        else:
            given = "" if self.value is None else f"={self.value}"
            given += f" ({self.source})" if self.source else ""
        return escape(f"{cut(self.name)}{given}: {self.reason}; {self.remedy}")


class ConfigError(GizmoError):
    """Report every setting that cannot be used, all at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = "1 setting cannot" if count == 1 else f"{count} settings cannot"
        lines = (f"  {problem}" for problem in self.problems)
        super().__init__("\n".join((f"{title} be used:", *lines)))


class DeclarationError(GizmoError):
    """Report a mistake in how a service declares an endpoint or a subscription."""

    exit_code = 2

    def __init__(self, function: Callable[..., Any], reason: str) -> None:
        code = getattr(inspect.unwrap(function), "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}: " if code is not None else ""
        name = getattr(function, "__qualname__", repr(function))
        super().__init__(f"{where}{name}: {reason}")


class StartError(GizmoError):
    """Report why the daemon cannot start, and what to do."""


class UsageError(GizmoError):
    """Report a call that cannot be right, such as publishing on a closed publisher."""


class PubSubError(GizmoError):
    """Report what a broker refused or failed to do.

    ``transient`` is True where the same call may succeed later (a network fault, throttling), and
    False where it cannot (an unknown topic, no permission, a message that is too large).
    """

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class UnknownScheme(PubSubError):
    """Report a broker URL whose scheme no driver is registered for."""

    def __init__(self, url: str, known: Sequence[str]) -> None:
        schemes = ", ".join(f"{scheme}://" for scheme in sorted(known))
        super().__init__(
            f"{url!r} names no broker that is known here; use one of: {schemes}", transient=False
        )


class DriverNotInstalled(PubSubError):
    """Report a driver whose library is not installed, and the extra that brings it."""

    def __init__(self, scheme: str, missing: str) -> None:
        super().__init__(
            f"{scheme}:// needs {missing}, which is not installed; "
            f"try: pip install 'gizmopy[{scheme}]'",
            transient=False,
        )


class NotFound(PubSubError):
    """Report a topic, queue or subscription that does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class UndecodableMessage(PubSubError):
    """Report a body that its codec cannot read: such a message is dead-lettered at once."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class HandlerOutcome(Exception):
    """Stand above what a message handler raises to say what becomes of its message."""


class Retry(HandlerOutcome):
    """Handle this message again, ``after`` seconds from now (default: by the retry policy).

    With ``counted=False`` it is no failure of the message (what the handler needs is away, another
    is at it): it waits in place, with its lease, and no attempt is counted.
    """

    def __init__(
        self, reason: str = "", *, after: float | timedelta | None = None, counted: bool = True
    ) -> None:
        super().__init__(reason)
        self.after = after.total_seconds() if isinstance(after, timedelta) else after
        self.counted = counted


class Reject(HandlerOutcome):
    """Never handle this message again: send it to the dead letters, saying why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
