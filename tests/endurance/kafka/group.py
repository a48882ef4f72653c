"""A group of daemons that consume one topic, each with a file of records of its own."""

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
    """Daemons of ``service`` that join and leave; ``environment`` is what all of them are told."""

    def __init__(self, folder: Path, service: str, environment: dict[str, str]) -> None:
        self.alive: dict[str, Daemon] = {}
        self.logs: dict[str, Daemon] = {}
        """All there were, for what they have logged."""
        self._folder = folder
        self._service = f"tests.endurance.kafka.service:{service}"
        self._environment = environment
        self._numbers = count(1)
        self._stack = AsyncExitStack()

    async def join(self, **environment: str) -> tuple[str, Daemon]:
        """Start one more, and return its name."""
        name = f"member-{next(self._numbers)}"
        records = str(self._folder / name)
        told = self._environment | {"STORM_RECORDS": records} | environment
        member = await self._stack.enter_async_context(
            daemon("auto", self._service, _READY, **told)
        )
        self.alive[name] = self.logs[name] = member
        return name, member

    async def leave(self, name: str) -> Ended:
        """Send SIGTERM to one, and return how it ended."""
        member = self.alive.pop(name)
        member.signal()
        return await member.ended(within=30)

    async def die(self, name: str) -> None:
        """Send SIGKILL to one."""
        member = self.alive.pop(name)
        member.signal(signal.SIGKILL)
        await member.process.wait()

    async def leave_all(self) -> list[str]:
        """Send SIGTERM to all, and return what was wrong with how they ended."""
        names = list(self.alive)
        ends = await asyncio.gather(*map(self.leave, names))
        return [
            f"{name}: exit code {end.code}, not 0"
            for name, end in zip(names, ends, strict=True)
            if end.code != 0
        ]

    def handlings(self) -> list[Handling]:
        """Return what all of them have recorded."""
        return [
            handling
            for path in sorted(self._folder.iterdir())
            for handling in parse(path.name, path.read_text().splitlines())
        ]

    def logged(self, text: str) -> list[str]:
        """Return the members' messages that hold ``text``."""
        return [
            f"{name}: {record['message']}"
            for name, member in self.logs.items()
            for record in member.records
            if text in record["message"]
        ]

    async def aclose(self) -> None:
        """Kill who is left."""
        await self._stack.aclose()


@asynccontextmanager
async def group(folder: Path, service: str, environment: dict[str, str]) -> AsyncIterator[Group]:
    """Hold the daemons of ``service`` whose records stand in ``folder``, an empty one."""
    members = Group(folder, service, environment)
    try:
        yield members
    finally:
        await members.aclose()
