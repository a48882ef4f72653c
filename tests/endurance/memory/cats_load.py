"""Send many cats to the daemon of examples/3-both, and compare its counts with its answers.

    make run                                           # in one terminal
    python -m tests.endurance.memory.cats_load         # in another: sends all lines twice
    python -m tests.endurance.memory.cats_load --restart  # stops a daemon of its own by SIGTERM
                                                       # during the load, and starts another one

The input is a file of JSON lines, made from a seed: names in many scripts, some ids twice, and one
line in a hundred malformed. The exit code is 1 if a count is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

NAMES = (
    "Tom",
    "Žofie",
    "Мурка",
    "小猫",
    "ねこ",
    "Ψιψίνα",
    "קיטי",
    "🐈‍⬛ Salem",
    "O'Malley",
    "Ünal",
)
MALFORMED = (
    '{"id": %d, "name": "Tom"',
    '{"id": %d, "name": 7}',
    '{"id": %d, "name": ""}',
    '{"id": %d}',
    "no JSON at all (%d)",
)


def make_lines(count: int, seed: int) -> list[str]:
    """Return ``count`` lines of JSON, the same for the same ``seed``; every 100th is malformed."""
    choice = random.Random(seed)
    lines = []
    for number in range(count):
        if number % 100 == 99:
            lines.append(choice.choice(MALFORMED) % number)
            continue
        identity = choice.randrange(number) if number and choice.random() < 0.05 else number
        name = f"{choice.choice(NAMES)} {choice.randrange(1000)}"
        lines.append(json.dumps({"id": identity, "name": name}, ensure_ascii=False))
    return lines


@dataclass
class Tally:
    """Count the answers of the daemon."""

    answers: Counter[int] = field(default_factory=Counter)
    accepted_ids: set[int] = field(default_factory=set)
    unanswered: list[tuple[int, str]] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Return the number of PUTs that were answered 2xx."""
        return sum(n for status, n in self.answers.items() if 200 <= status < 300)

    @property
    def refused(self) -> int:
        """Return the number of PUTs that were answered 4xx."""
        return sum(n for status, n in self.answers.items() if 400 <= status < 500)


class Progress:
    """Show the progress: a bar on a terminal, else a line for every tenth."""

    def __init__(self, total: int, title: str) -> None:
        self._total, self._title = total, title
        self._done = self._shown = 0

    def step(self) -> None:
        """Count one more."""
        self._done += 1
        share = self._done * (100 if sys.stderr.isatty() else 10) // self._total
        if share == self._shown:
            return
        self._shown = share
        if sys.stderr.isatty():
            bar = "█" * (share * 40 // 100)
            end = "\n" if self._done == self._total else ""
            sys.stderr.write(f"\r{self._title} |{bar:<40}| {share:3d} % {self._done:,}{end}")
        else:
            sys.stderr.write(f"{self._title}: {share * 10} % ({self._done:,})\n")
        sys.stderr.flush()


def _identity(number: int, line: str) -> int:
    try:
        return int(json.loads(line)["id"])
    except ValueError:
        return number


async def send(
    url: str, lines: Sequence[tuple[int, str]], connections: int, progress: Progress
) -> Tally:
    """PUT each line, ``connections`` at a time, and return the answers.

    A line without an answer (the daemon has stopped) is kept in ``unanswered``.
    """
    tally = Tally()
    waiting = iter(lines)

    async def work(session: aiohttp.ClientSession) -> None:
        for number, line in waiting:
            identity = _identity(number, line)
            try:
                async with session.put(f"/svc/cats/{identity}", data=line.encode()) as response:
                    await response.read()
                    tally.answers[response.status] += 1
            except aiohttp.ClientError:
                tally.unanswered.append((number, line))
                continue
            if response.ok:
                tally.accepted_ids.add(identity)
            progress.step()

    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(url, headers=headers) as session, asyncio.TaskGroup() as all_:
        for _ in range(connections):
            all_.create_task(work(session))
    return tally


async def read_stats(url: str) -> dict[str, int]:
    """Return the current counts of the daemon."""
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/svc/cats/stats") as response:
            stats: dict[str, int] = await response.json()
            return stats


async def settled_stats(url: str, timeout: float = 10.0) -> dict[str, int]:
    """Return the daemon's counts once every message is handled, or after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        stats = await read_stats(url)
        if stats["published"] == stats["handled"] or time.monotonic() > deadline:
            return stats
        await asyncio.sleep(0.05)


async def resident_megabytes(url: str) -> float:
    """Return the daemon's resident memory, from its metrics."""
    async with aiohttp.ClientSession(url) as session, session.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith("process_resident_memory_bytes "):
                return float(line.split()[1]) / 2**20
    raise RuntimeError(f"{url}/metrics has no process_resident_memory_bytes")


class Comparison:
    """Print each comparison, and remember whether all were right."""

    def __init__(self) -> None:
        self.held = True

    def check(self, what: str, holds: bool) -> None:
        """Print one compared."""
        self.held &= holds
        print(f"{'ok  ' if holds else 'FAIL'} {what}")


async def load(url: str, lines: Sequence[tuple[int, str]], connections: int) -> bool:
    """Send every line twice to the daemon at ``url``, and compare every count."""
    before = await settled_stats(url)
    tallies, memory = [], []
    for turn in ("first pass", "second pass"):
        tallies.append(await send(url, lines, connections, Progress(len(lines), turn)))
        memory.append(await resident_megabytes(url))
    after = await settled_stats(url)
    accepted = sum(tally.accepted for tally in tallies)
    published = after["published"] - before["published"]
    handled = after["handled"] - before["handled"]
    malformed = 2 * (len(lines) // 100)
    refused = sum(tally.refused for tally in tallies)
    distinct = len(tallies[0].accepted_ids)
    compared = Comparison()
    compared.check(f"accepted PUTs {accepted:,} = published {published:,}", accepted == published)
    compared.check(f"published {published:,} = handled {handled:,}", published == handled)
    if not before["stored"]:
        stored = after["stored"]
        compared.check(
            f"stored {stored:,} = distinct ids accepted {distinct:,}", stored == distinct
        )
    compared.check(f"malformed {malformed:,} = refused with 4xx {refused:,}", malformed == refused)
    total = sum(sum(tally.answers.values()) for tally in tallies)
    compared.check(f"answers {total:,} = lines sent {2 * len(lines):,}", total == 2 * len(lines))
    growth = memory[1] - memory[0]
    compared.check(f"memory {memory[0]:.1f} MiB, then {memory[1]:.1f} MiB ", growth < 4)
    print("answers by status:", dict(sum((tally.answers for tally in tallies), Counter())))
    return compared.held


@dataclass
class Daemon:
    """A cats daemon in a process of its own."""

    process: Process
    log: Path
    url: str

    def records(self) -> list[dict[str, Any]]:
        """Return the records that it has logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 60)

    def final_stats(self) -> dict[str, int]:
        """Return the counts that it logged when it stopped."""
        return next(line["stats"] for line in reversed(self.records()) if "stats" in line)


@asynccontextmanager
async def daemon(folder: Path, name: str) -> AsyncIterator[Daemon]:
    """Start a daemon on a free port, and kill it if it still runs in the end."""
    log = folder / f"{name}.log"
    environment = {**os.environ, "HTTP_PORT": "0", "APP_LOG": str(log), "HTTP_ACCESS_LOG": "off"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gizmopy", "run", "tests.cats:Cats"), env=environment
    )
    started = Daemon(process, log, "")
    try:
        async with asyncio.timeout(30):
            while not started.url:
                await asyncio.sleep(0.05)
                records = started.records() if log.exists() else []
                started.url = next((line["url"] for line in records if "url" in line), "")
        yield started
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def restart(lines: Sequence[tuple[int, str]], connections: int) -> bool:
    """Stop the daemon during the load, start another one, send the rest, and compare all counts."""
    compared = Comparison()
    progress = Progress(len(lines), "two lives")
    with tempfile.TemporaryDirectory() as folder:
        async with daemon(Path(folder), "first") as first:
            sending = asyncio.create_task(send(first.url, lines, connections, progress))
            while (await read_stats(first.url))["stored"] < len(lines) // 3:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            code = await first.stop()
            tally = await sending
        stats = first.final_stats()
        compared.check(f"exit code after SIGTERM {code} = 0", code == 0)
        compared.check(
            f"first life: accepted {tally.accepted:,} = published {stats['published']:,}",
            tally.accepted == stats["published"],
        )
        compared.check(
            f"first life: published {stats['published']:,} = handled {stats['handled']:,}",
            stats["published"] == stats["handled"],
        )
        rest = tally.unanswered
        compared.check(f"it was stopped during the load: {len(rest):,} lines were left", bool(rest))
        async with daemon(Path(folder), "second") as second:
            last = await send(second.url, rest, connections, progress)
            code = await second.stop()
        stats = second.final_stats()
        compared.check(f"exit code of the second life {code} = 0", code == 0)
        compared.check(
            f"second life: accepted {last.accepted:,} = handled {stats['handled']:,}",
            last.accepted == stats["handled"],
        )
        answered = sum((tally.answers + last.answers).values())
        compared.check(f"answers {answered:,} = lines {len(lines):,}", answered == len(lines))
    return compared.held


def main() -> int:
    """Read the arguments, and return 0 if every count is right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--file", type=Path, help="JSON lines to send; made if it is missing")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--restart", action="store_true", help="see above")
    chosen = parser.parse_args()
    if chosen.file and chosen.file.exists():
        texts = chosen.file.read_text().splitlines()
    else:
        texts = make_lines(chosen.count, chosen.seed)
        if chosen.file:
            chosen.file.write_text("\n".join(texts) + "\n")
    lines = list(enumerate(texts))
    if chosen.restart:
        return 0 if asyncio.run(restart(lines, chosen.connections)) else 1
    return 0 if asyncio.run(load(chosen.url, lines, chosen.connections)) else 1


if __name__ == "__main__":
    sys.exit(main())
