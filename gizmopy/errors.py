"""Every error that gizmopy raises, and the two by which a message handler decides an outcome.

    GizmoError
    ├── ConfigError            settings are invalid: every problem, not only the first
    ├── DeclarationError       a mistake in a service's source: file, line and method
    ├── StartError             the daemon cannot start: a port is in use, a resource is missing
    ├── UsageError             a call that cannot be right: publishing on a closed publisher
    └── PubSubError            a broker rejected a call or failed; ``transient``: a retry may help
        ├── UnknownScheme      no driver is registered for a URL's scheme
        ├── DriverNotInstalled the driver's library is missing: names the extra to install
        ├── TopicNotFound      the topic, queue or subscription does not exist
        └── UndecodableMessage a body that its codec cannot decode
    HandlerOutcome
    ├── Retry                  handle this message again, later
    └── Reject                 never handle this message again: dead-letter it

``gizmopy.web.Problem`` is not among them: it is a response to a request, and not a failure. An
error of a library becomes one of these in the module that calls the library. An error is logged
once, by the code that received the request or the message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

from gizmopy._deprecated import renamed
from gizmopy.untrusted.durations import DurationLike, as_seconds
from gizmopy.untrusted.hidden import placeholder
from gizmopy.untrusted.text import cut, escape


class GizmoError(Exception):
    """The base class of every error of gizmopy."""

    exit_code = 1
    """The exit code of a daemon or command that ends with this error."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One invalid setting: its name, the reason and the remedy."""

    name: str
    """The setting as its source spells it: ``HTTP_PORT``, ``--http-port``, ``http_port``."""
    reason: str
    remedy: str
    source: str = ""
    """The source of the value: ``environment``, ``command line``, the path of a file."""
    value: str | None = None
    """The value as text; None if there is none, or if it may be a secret."""
    size: str = ""
    """The length of a value that may be a secret: ``12 characters``."""

    def __str__(self) -> str:
        if self.size:
            value = f"={placeholder(self.size, self.source)}"
        else:
            value = "" if self.value is None else f"={self.value}"
            value += f" ({self.source})" if self.source else ""
        return escape(f"{cut(self.name)}{value}: {self.reason}; {self.remedy}")


class ConfigError(GizmoError):
    """Settings are invalid. ``problems`` has every one of them."""

    exit_code = 2

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = "1 setting is invalid" if count == 1 else f"{count} settings are invalid"
        lines = (f"  {problem}" for problem in self.problems)
        super().__init__("\n".join((f"{title}:", *lines)))


class DeclarationError(GizmoError):
    """A service declares an endpoint, a subscription or a setting in a wrong way."""

    exit_code = 2

    def __init__(self, function: Callable[..., Any], reason: str, *, field: str = "") -> None:
        place, name = _place_of(function), _name_of(function)
        if field and isinstance(function, type):
            place, name = place_of_field(function, field) or place, f"{name}.{field}"
        super().__init__(f"{place}{': ' if place else ''}{name}: {reason}")


def source_of(function: Any) -> str:
    """Return the name of a function, method or class, with the file and line of its definition."""
    place = _place_of(function)
    return f"{_name_of(function)} ({place})" if place else _name_of(function)


def _name_of(function: Any) -> str:
    name = getattr(_inner(function), "__qualname__", None)
    return name if isinstance(name, str) else repr(function)


def _place_of(function: Any) -> str:
    """Return the file and line; empty if they are unknown, as those of a built-in are."""
    inner = inspect.unwrap(_inner(function))
    code = getattr(inner, "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    kind = inner if isinstance(inner, type) else type(inner)
    try:
        return f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return ""


def _inner(function: Any) -> Any:
    """Return the function inside a property, a partial function, or a static or class method."""
    while True:
        if isinstance(function, property):
            function = function.fget
        elif isinstance(function, (partial, partialmethod)):
            function = function.func
        elif isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        else:
            return function


def place_of_field(cls: type, field: str) -> str:
    """Return the file and line of a field or attribute of ``cls``; empty if they are unknown."""
    try:
        lines, start = inspect.getsourcelines(cls)
    except (OSError, TypeError):
        return ""
    for number, line in enumerate(lines, start):
        if line.lstrip().startswith((f"{field}:", f"{field} =")):
            return f"{inspect.getsourcefile(cls)}:{number}"
    return ""


class StartError(GizmoError):
    """The daemon cannot start. The text has the reason and the remedy."""


class UsageError(GizmoError):
    """A call that cannot be right, such as publishing on a closed publisher."""


class PubSubError(GizmoError):
    """A broker rejected a call or failed.

    ``transient`` is True if the same call may succeed later (a network fault, throttling), and
    False if it cannot (an unknown topic, no permission, a message that is too large).
    """

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class UnknownScheme(PubSubError):
    """No driver is registered for the scheme of a broker's URL."""

    def __init__(self, url: str, known: Sequence[str]) -> None:
        schemes = ", ".join(f"{scheme}://" for scheme in sorted(known))
        super().__init__(
            f"no driver is registered for the URL {url!r}; use one of: {schemes}", transient=False
        )


class DriverNotInstalled(PubSubError):
    """The library of a driver is not installed. The text names the extra that installs it."""

    def __init__(self, scheme: str, missing: str) -> None:
        super().__init__(
            f"{scheme}:// needs {missing}, which is not installed; "
            f"run: pip install 'gizmopy[{scheme}]'",
            transient=False,
        )


class TopicNotFound(PubSubError):
    """A topic, queue or subscription does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class UndecodableMessage(PubSubError):
    """A body that its codec cannot decode. The message is dead-lettered without a retry."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class HandlerOutcome(Exception):
    """The base class of the exceptions by which a message handler decides an outcome."""


class Retry(HandlerOutcome):
    """Handle this message again, ``after`` a duration from now (default: by the retry policy).

    ``after`` is a number of seconds, a text such as ``1m30s``, or a timedelta.

    With ``counted=False`` this is not a failure of the message, for example if a service that the
    handler needs is unavailable: the message waits in place, with its lease, and no attempt is
    counted. Raises UsageError if ``after`` is none of these.
    """

    # Of the class, so that a subclass whose __init__ does not call this one is complete.
    after: float | None = None
    counted: bool = True

    def __init__(
        self, reason: object = "", *, after: DurationLike | None = None, counted: bool = True
    ) -> None:
        super().__init__(_reason_text(reason))
        self.after = seconds_of(after)
        self.counted = counted


class Reject(HandlerOutcome):
    """Never handle this message again: dead-letter it with ``reason``.

    ``reason`` may be any value: of an exception its type and text are the reason.
    """

    reason: str = ""

    def __init__(self, reason: object = "") -> None:
        self.reason = _reason_text(reason)
        super().__init__(self.reason)


def seconds_of(after: object) -> float | None:
    """Return the ``after`` of a Retry in seconds. Raises UsageError if it is not a duration.

    The engine calls this too: a subclass of Retry may set any ``after``.
    """
    return None if after is None else seconds_from("Retry(after=)", after)


def seconds_from(what: str, value: DurationLike | Any) -> float:
    """Return a duration in seconds. Raises UsageError, about ``what``, if it is none."""
    try:
        return as_seconds(value)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def _reason_text(reason: object) -> str:
    """Return any value as the text of a reason."""
    if isinstance(reason, str):
        return reason
    if isinstance(reason, BaseException):
        # Imported here: the module imports pydantic, which a command that only parses its
        # arguments does not need.
        from gizmopy.untrusted.error_text import describe_error

        return describe_error(reason)
    try:
        return str(reason)
    except Exception:  # noqa: BLE001 - a broken __str__ must not replace the outcome
        return type(reason).__name__


# A type checker sees an ordinary alias: a module's __getattr__ would hide misspelt names from it.
if TYPE_CHECKING:
    NotFound = TopicNotFound
else:
    __getattr__ = renamed(__name__, {"NotFound": "gizmopy.errors:TopicNotFound"})
