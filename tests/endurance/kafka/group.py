"""A group of daemons that consume one topic, each with its own file of records."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

from tests.endurance.http.daemon import Daemon, Ended, daemon
from tests.endurance.kafka.verdict import Handling, parse

_READY = ": ready"


class Group:
    """Daemons of ``service`` that join and leave, with ``environment``."""

    def __init__(self, folder: Path, service: str, environment: dict[str, str]) -> None:
        self.alive: dict[str, Daemon] = {}
        self.logs: dict[str, Daemon] = {}
        """All daemons so far, for their log."""
        self._folder = folder
        self._service = f"tests.endurance.kafka.service:{service}"
        self._environment = environment
        self._numbers = count(1)
        self._stack = AsyncExitStack()

    async def join(self, **environment: str) -> tuple[str, Daemon]:
        """Start another daemon, and return its name."""
        name = f"member-{next(self._numbers)}"
        records = str(self._folder / name)
        given = self._environment | {"STORM_RECORDS": records} | environment
        member = await self._stack.enter_async_context(
            daemon("auto", self._service, _READY, **given)
        )
        self.alive[name] = self.logs[name] = member
        return name, member

    async def leave(self, name: str) -> Ended:
        """Send SIGTERM to a daemon, and return how it ended."""
        member = self.alive.pop(name)
        member.signal()
        return await member.ended(within=30)

    async def die(self, name: str) -> None:
        """Send SIGKILL to a daemon."""
        member = self.alive.pop(name)
        member.signal(signal.SIGKILL)
        await member.process.wait()

    async def leave_all(self) -> list[str]:
        """Send SIGTERM to all daemons, and return those with a wrong exit code."""
        names = list(self.alive)
        ends = await asyncio.gather(*map(self.leave, names))
        return [
            f"{name}: exit code {end.code}, not 0"
            for name, end in zip(names, ends, strict=True)
            if end.code != 0
        ]

    def handlings(self) -> list[Handling]:
        """Return the handlings that all daemons have recorded."""
        return [
            handling
            for path in sorted(self._folder.iterdir())
            for handling in parse(path.name, path.read_text().splitlines())
        ]

    def logged(self, text: str) -> list[str]:
        """Return the log messages with ``text``, of all daemons."""
        return [
            f"{name}: {record['message']}"
            for name, member in self.logs.items()
            for record in member.records
            if text in record["message"]
        ]

    async def aclose(self) -> None:
        """Kill the remaining daemons."""
        await self._stack.aclose()


@asynccontextmanager
async def group(folder: Path, service: str, environment: dict[str, str]) -> AsyncIterator[Group]:
    """Provide a group of ``service`` with its records in ``folder``, which is empty."""
    members = Group(folder, service, environment)
    try:
        yield members
    finally:
        await members.aclose()
