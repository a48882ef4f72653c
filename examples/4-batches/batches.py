"""Insert measurements in batches, and handle each message once.

export GIZMO_PUBSUB_URL=kafka://localhost:9092 REDIS_URL=redis://localhost:6379/0
gizmopy run batches:Meters
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pydantic import BaseModel, SecretStr

from gizmopy import Message, Reject, Service, Settings, subscribe
from gizmopy.pubsub import RedisStore
from gizmopy.pubsub.middleware import MemoryStore, idempotent


class Measurement(BaseModel):
    """A message of a meter."""

    meter: str
    value: float


class Payment(BaseModel):
    """A message of a bank."""

    account: str
    cents: int


class MeterSettings(Settings):
    """Name the Redis that replicas share; without it, marks are kept in this process."""

    redis_url: SecretStr = SecretStr("")


class Meters(Service):
    """Stores measurements, and books payments."""

    settings: MeterSettings

    def __init__(self, settings: MeterSettings | None = None) -> None:
        super().__init__(settings)
        self.rows: list[Measurement] = []
        self.balance: dict[str, int] = {}
        url = self.settings.redis_url.get_secret_value()
        self.marks = RedisStore(url) if url else MemoryStore()
        self.message_middleware = (idempotent(self.marks),)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Hold the connection to Redis, if there is one."""
        async with AsyncExitStack() as stack:
            if isinstance(self.marks, RedisStore):
                await stack.enter_async_context(self.marks)
            yield

    @subscribe("measurements", batch_size=100, batch_wait=0.5, dead_letter="measurements.dead")
    async def on_measurements(
        self, measurements: list[Measurement], messages: list[Message]
    ) -> list[Exception | None]:
        """Store many measurements in one statement, and reject single ones.

        A batch may be delivered again, so that the statement should be an upsert. Message
        middleware such as ``idempotent`` does not wrap batches.
        """
        good = [measurement for measurement in measurements if measurement.value >= 0]
        self.rows += good
        return [None if each.value >= 0 else Reject("negative") for each in measurements]

    @subscribe("payments", order="key")
    async def on_payment(self, payment: Payment) -> None:
        """Book a payment: twice would be wrong, so ``idempotent`` acks duplicates unhandled."""
        self.balance[payment.account] = self.balance.get(payment.account, 0) + payment.cents


if __name__ == "__main__":
    Meters.run()
