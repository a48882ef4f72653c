"""A publisher that records messages instead of sending them: a double for tests of publishing.

It is a real Publisher with a sender that records. So encoding, limits, retries and order are real;
only the broker and the waits between retries are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Any, TypeVar

from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub.codecs import codec_for
from gizmopy.pubsub.driver import Capabilities, Results
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.publisher import Publisher
from gizmopy.pubsub.retry import RetryPolicy

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message that was published."""

    topic: str
    body: bytes | None
    key: str | None
    attributes: Mapping[str, str]
    id: str
    deliver_at: datetime | None = None
    """When it is to be delivered; None: at once."""

    @classmethod
    def of(cls, message: Message) -> Recorded:
        """Return the record of ``message``."""
        return cls(
            message.topic,
            message.body,
            message.key,
            message.attributes,
            message.id,
            message.deliver_at,
        )

    def value(self, type_: type[ValueT]) -> ValueT:
        """Return the body decoded as ``type_``.

        Raises UndecodableMessage if it is invalid, or a tombstone.
        """
        if self.body is None:
            raise UndecodableMessage(f"message {self.id} is a tombstone: it has no value")
        hashable: Any = type_
        value: ValueT = codec_for(hashable).decode(self.body)
        return value


@dataclass(slots=True)
class _Failure:
    error: Exception
    times: int
    matches: Callable[[Message], bool]


class RecordingSender:
    """A sender that records messages, and fails as ``failures`` say."""

    def __init__(self) -> None:
        self.batches: list[list[Message]] = []
        """The messages of each call, including failed ones."""
        self.sent: list[Message] = []
        """The confirmed messages, in order."""
        self.failures: list[_Failure] = []
        self.closed = False

    async def connect(self) -> None:
        """Do nothing."""

    async def send(self, batch: Sequence[Message]) -> Results:
        """Record the messages, and return the errors that ``failures`` ask for."""
        if self.closed:
            raise UsageError("this sender is closed; publish before aclose")
        self.batches.append(list(batch))
        return [self._send(message) for message in batch]

    def _send(self, message: Message) -> Exception | None:
        for failure in self.failures:
            if failure.times and failure.matches(message):
                failure.times -= 1
                return failure.error
        self.sent.append(message)
        return None

    async def aclose(self) -> None:
        """Refuse further messages."""
        self.closed = True


class RecordingPublisher(Publisher):
    """Record published messages in ``messages``.

    ``message_bytes`` is the size limit of a message, ``batch_messages`` that of a batch,
    ``send_delay`` the longest delay (None: a broker without delays, such as Kafka), and ``retry``
    the policy for transient failures; its waits take no time.
    """

    def __init__(
        self,
        topic: str = "recorded",
        *,
        metrics: Metrics | None = None,
        message_bytes: int | None = None,
        batch_messages: int = 100,
        send_delay: float | None = inf,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
    ) -> None:
        self.sender = RecordingSender()
        limits = Capabilities(
            ordering=True,
            can_nack=True,
            native_delay=True,
            lease=None,
            positions=False,
            delivery_count=True,
            process_local=True,
            batch_messages=batch_messages,
            batch_bytes=None,
            message_bytes=message_bytes,
            send_delay=send_delay,
        )
        super().__init__(
            self.sender,
            topic,
            metrics=metrics or Metrics(),
            limits=limits,
            retry=retry,
            sleep=lambda _: asyncio.sleep(0),
        )

    @property
    def messages(self) -> list[Recorded]:
        """The confirmed messages, in order."""
        return [Recorded.of(message) for message in self.sender.sent]

    def fail(
        self,
        error: Exception,
        times: int = 1,
        *,
        when: Callable[[Message], bool] = lambda _: True,
    ) -> None:
        """Make the next ``times`` messages for which ``when`` is true fail with ``error``.

        A transient ``PubSubError`` is retried, as with a broker.
        """
        self.sender.failures.append(_Failure(error, times, when))
