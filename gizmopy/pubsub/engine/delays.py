"""When a message is due that is published with a delay, and whether its broker can keep it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gizmopy.errors import UsageError, seconds_from
from gizmopy.untrusted.durations import DurationLike


def due_at(delay: DurationLike | None, at: datetime | None) -> datetime | None:
    """Return when a message is due: ``delay`` from now, or ``at``; None: at once.

    Raises UsageError if both are given, if ``delay`` is negative or no duration, and if ``at`` has
    no time zone.
    """
    if at is None:
        if delay is None:
            return None
        seconds = seconds_from("delay=", delay)
        if seconds < 0:
            raise UsageError(f"delay={delay!r} is negative; use 0 or more seconds")
        try:
            return datetime.now(UTC) + timedelta(seconds=seconds)
        except OverflowError:
            raise UsageError(f"delay={delay!r} is too long; use a shorter one") from None
    if delay is not None:
        raise UsageError(f"delay={delay!r} and at={at!r} contradict each other; use one of them")
    if not isinstance(at, datetime):
        raise UsageError(f"at={at!r} is not a datetime; use datetime.now(UTC) + timedelta(…)")
    if at.utcoffset() is None:
        raise UsageError(f"at={at!r} has no time zone; use datetime.now(UTC) + timedelta(…)")
    return at.astimezone(UTC)


def checked_due(due: datetime, topic: str, longest: float | None) -> datetime | None:
    """Return ``due``, or None if that is past. Raises UsageError if the broker cannot wait so long.

    ``longest`` is the capability ``send_delay`` of the broker.
    """
    if longest is None:
        raise UsageError(
            f"the broker of {topic!r} cannot delay a message; publish it without delay= and at= "
            "when it is due, or use another broker for this channel"
        )
    seconds = (due - datetime.now(UTC)).total_seconds()
    if seconds > longest:
        raise UsageError(
            f"the broker of {topic!r} delays a message by {longest:g} s at most, not by "
            f"{seconds:.0f} s; publish it later"
        )
    return due if seconds > 0 else None
