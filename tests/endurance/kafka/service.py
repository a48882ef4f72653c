"""The services of the cases: each daemon appends its handlings to its own file."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import BaseModel, Field

from gizmopy import Message, RetryPolicy, Service, Settings, subscribe

logger = logging.getLogger(__name__)

_SLOW = 1.0
"""A handling that takes this many seconds or more is logged when it starts."""


class Cat(BaseModel):
    """One of the numbered messages of a key."""

    name: str
    """The key."""
    number: int
    """The number of the message within its key, from 1."""
    seconds: float = 0.0
    """How long its handling takes."""
    poison: bool = False
    """Whether its handling fails until it comes back from the dead letters."""


class RecorderSettings(Settings):
    """The file of the records, and the limit of the work."""

    records: Path = Field(validation_alias="STORM_RECORDS", description="The file of records.")
    most_work: float = Field(
        default=3600.0,
        validation_alias="STORM_MOST_WORK",
        description="The most seconds that a handling takes, whatever its message says.",
    )


class Recorder(Service):
    """Work as long as each message asks for, and record it before the handler returns."""

    settings: RecorderSettings

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep the file open. One write is one line, which survives a SIGKILL of the daemon."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._assignments: dict[Hashable, int] = {}
        self._file = os.open(self.settings.records, flags, 0o644)
        try:
            yield
        finally:
            os.close(self._file)

    async def record(self, cat: Cat, message: Message) -> None:
        """Handle a message."""
        started = monotonic()
        if cat.poison and "gizmo-dl-redriven" not in message.attributes:
            raise ValueError("poison")
        if cat.seconds >= _SLOW:
            logger.info("%s %d is slow", cat.name, cat.number)
        await asyncio.sleep(min(cat.seconds, self.settings.most_work))
        assignment = self._assignments.setdefault(message.partition, len(self._assignments))
        raw: Any = message.raw  # a ConsumerRecord of aiokafka
        where = f"{assignment} {raw.partition} {raw.offset}"
        what = f"{cat.name} {cat.number} {message.attempt}"
        os.write(self._file, f"{where} {what} {started} {monotonic()}\n".encode())


class Single(Recorder):
    """Handle one message at a time, as every subscription does by default."""

    @subscribe("cats")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Record a cat."""
        await self.record(cat, message)


class Ordered(Recorder):
    """Handle many messages at a time, in the order of each key."""

    @subscribe("cats", concurrency=64, order="key", max_in_flight=500)
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Record a cat."""
        await self.record(cat, message)


class Careful(Recorder):
    """Dead-letter messages that cannot be handled."""

    @subscribe(
        "cats",
        concurrency=16,
        order="key",
        retry=RetryPolicy(attempts=3, base=0.1),
        max_deliveries=1,
        dead_letter="dead-cats",
    )
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Record a cat, or fail."""
        await self.record(cat, message)
