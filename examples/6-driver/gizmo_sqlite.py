"""A driver for ``sqlite:///path/to/file``: a queue in a SQLite file.

docs/writing-a-driver.md explains it. setup.cfg registers it as an entry point, so that
``GIZMO_PUBSUB_URL=sqlite:///tmp/queue.db`` works once this folder is installed.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import Capabilities, Message, Status

LEASE = 1.0
TABLES = """
pragma journal_mode = wal;
pragma synchronous = normal;
create table if not exists subscription (topic, name, primary key (topic, name));
create table if not exists message (topic, subscription, id, body, key, attributes, published,
                                    due, delivery default 0);
"""

Results = list[PubSubError | None]


def open_driver(url: str) -> SQLiteDriver:
    """Open the driver for a URL. The entry point names this function."""
    return SQLiteDriver(urlsplit(url).path)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the library's errors into PubSubError: a locked file, a full disk."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise PubSubError(f"SQLite: {error}", transient=True) from error


def key_bytes(key: str | None) -> bytes | None:
    """Return a key as bytes, the original ones if it was not UTF-8."""
    return None if key is None else key.encode("utf-8", "surrogateescape")


class SQLiteDriver:
    """Hold one connection to the file, which all senders and receivers share."""

    capabilities = Capabilities(
        ordering=False,
        can_nack=True,
        native_delay=True,
        lease=LEASE,
        positions=False,
        delivery_count=True,
        process_local=False,
        batch_messages=100,
        batch_bytes=None,
        message_bytes=1_000_000,
    )

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(TABLES)

    def sender(self, topic: str) -> SQLiteSender:
        """Return a sender for a topic."""
        return SQLiteSender(self.db, topic)

    def receiver(self, topic: str, subscription: str, *, ordered: bool) -> SQLiteReceiver:
        """Return a receiver for a subscription."""
        return SQLiteReceiver(self.db, topic, subscription)

    async def aclose(self) -> None:
        """Close the file."""
        self.db.close()


class SQLiteSender:
    """Insert a row for each subscription of the topic."""

    def __init__(self, db: sqlite3.Connection, topic: str) -> None:
        self.db, self.topic, self.closed = db, topic, False

    async def connect(self) -> None:
        """Do nothing: the file is open."""

    async def send(self, batch: Sequence[Message]) -> Results:
        """Insert the messages."""
        if self.closed:
            raise UsageError("this sender is closed; send before aclose")
        with translated():
            for message in batch:
                self.db.execute(
                    "insert into message"
                    " (topic, subscription, id, body, key, attributes, published, due)"
                    " select topic, name, ?, ?, ?, ?, ?, 0 from subscription where topic = ?",
                    (
                        message.id,
                        message.body,
                        key_bytes(message.key),
                        json.dumps(dict(message.attributes)),
                        message.published_at.timestamp(),
                        self.topic,
                    ),
                )
        return [None] * len(batch)

    async def aclose(self) -> None:
        """Refuse further sends."""
        self.closed = True


class SQLiteReceiver:
    """Take rows that are due, and hold each for the time of a lease."""

    def __init__(self, db: sqlite3.Connection, topic: str, subscription: str) -> None:
        self.db, self.topic, self.subscription = db, topic, subscription
        self.held: set[Message] = set()
        self.closed = False

    async def connect(self, revoke: object) -> None:
        """Create the subscription: from now on it collects messages."""
        with translated():
            self.db.execute(
                "insert or ignore into subscription values (?, ?)", (self.topic, self.subscription)
            )

    async def receive(self, limit: int, wait: float) -> Sequence[Message]:
        """Return the messages that are due, or none after ``wait`` seconds."""
        if self.closed:
            raise UsageError("this receiver is closed; receive before aclose")
        deadline = time.time() + wait
        while not self.closed:
            if batch := self.take(limit):
                return batch
            if time.time() >= deadline:
                break
            await asyncio.sleep(0.01)  # a real driver has a broker that wakes it
        return []

    def take(self, limit: int) -> list[Message]:
        """Reserve the messages that are due."""
        now = time.time()
        with translated():
            rows = self.db.execute(
                "update message set delivery = delivery + 1, due = ?"
                " where rowid in (select rowid from message"
                " where topic = ? and subscription = ? and due <= ? order by rowid limit ?)"
                " returning rowid, id, body, key, attributes, published, delivery",
                (now + LEASE, self.topic, self.subscription, now, limit),
            ).fetchall()
        batch = [self.message(*row) for row in rows]
        self.held.update(batch)
        return batch

    def message(
        self,
        row: int,
        id: str,
        body: bytes | None,
        key: bytes | None,
        attributes: str,
        published: float,
        delivery: int,
    ) -> Message:
        """Make a message of a row."""
        return Message(
            self.topic,
            body,
            key=None if key is None else key.decode("utf-8", "surrogateescape"),
            attributes=json.loads(attributes),
            id=id,
            published_at=datetime.fromtimestamp(published, UTC),
            delivery=delivery,
            raw=row,
        )

    def settle(self, batch: Sequence[Message], sql: str, *values: Any) -> Results:
        """Change the rows that still belong to this delivery, and report the others."""
        results: Results = []
        for message in batch:
            condition = (message.raw, message.delivery, time.time())
            with translated():
                changed = self.db.execute(
                    f"{sql} where rowid = ? and delivery = ? and due > ?", (*values, *condition)
                ).rowcount
            error = PubSubError(f"the lease of {message.id} is over", transient=False)
            results.append(None if changed else error)
        return results

    async def ack(self, batch: Sequence[Message]) -> Results:
        """Delete messages."""
        self.held.difference_update(batch)
        return self.settle(batch, "delete from message")

    async def nack(self, batch: Sequence[Message], delay: float) -> Results:
        """Return messages, due after ``delay`` seconds."""
        self.held.difference_update(batch)
        return self.settle(batch, "update message set due = ?", time.time() + delay)

    async def extend(self, batch: Sequence[Message], seconds: float) -> Results:
        """Extend leases."""
        return self.settle(batch, "update message set due = ?", time.time() + seconds)

    def status(self) -> Status:
        """Return an empty status: the backlog is not known without a query."""
        return Status()

    async def aclose(self) -> None:
        """Return the messages that are held."""
        if not self.closed:
            self.closed = True
            await self.nack(list(self.held), 0)
