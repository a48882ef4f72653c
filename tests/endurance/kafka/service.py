"""The daemons of the storm: each appends what it has handled to a file of its own."""

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
"""Seconds of work from which on a handling is logged when it begins."""


class Cat(BaseModel):
    """One of the numbered messages of a key."""

    name: str
    """The key."""
    number: int
    """Which message of its key this is, from 1."""
    seconds: float = 0.0
    """How long its handling takes."""
    poison: bool = False
    """Whether its handling fails until it comes back from the dead letters."""


class RecorderSettings(Settings):
    """Where the records go, and how long the work may take."""

    records: Path = Field(validation_alias="STORM_RECORDS", description="The file of records.")
    most_work: float = Field(
        default=3600.0,
        validation_alias="STORM_MOST_WORK",
        description="The most seconds that a handling takes, whatever its message says.",
    )


class Recorder(Service):
    """Works as long as each message says, and records it before the handler returns."""

    settings: RecorderSettings

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep the file open. One write is one line: what was recorded outlives a SIGKILL."""
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
        if cat.poison and "dl-redriven" not in message.attributes:
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
    """Handles one message at a time, as every subscription does unless told otherwise."""

    @subscribe("cats")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Record a cat."""
        await self.record(cat, message)


class Ordered(Recorder):
    """Handles many messages at a time, in the order of each key."""

    @subscribe("cats", concurrency=64, order="key", max_in_flight=500)
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Record a cat."""
        await self.record(cat, message)


class Careful(Recorder):
    """Sends what cannot be handled to the dead letters."""

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
