"""provision: a topic is created and deleted, and only one that it has created."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import (
    BrokerResponseError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
)

from gizmopy.pubsub.brokers.kafka import topics
from tests.pubsub.support import turns


class FakeAdmin:
    """Record what is created and deleted."""

    existing: frozenset[str] = frozenset()
    creates = True
    """Whether topics are created at once."""
    deletion_error: type[BrokerResponseError] = NoError
    last: FakeAdmin

    def __init__(self, **options: Any) -> None:
        self.deleted: list[str] = []
        self.is_closed = False
        self.is_creating = False
        self.may_create = asyncio.Event()
        if self.creates:
            self.may_create.set()
        FakeAdmin.last = self

    async def start(self) -> None: ...

    async def create_topics(self, new: list[NewTopic]) -> Any:
        self.is_creating = True
        await self.may_create.wait()
        error = TopicAlreadyExistsError if new[0].name in self.existing else NoError
        return type("Answer", (), {"topic_errors": [(new[0].name, error.errno, "")]})()

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"error_code": 0, "partitions": [{"error_code": 0}] * 4}]

    async def delete_topics(self, names: list[str]) -> Any:
        self.deleted += names
        errors = [(name, self.deletion_error.errno) for name in names]
        return type("Answer", (), {"topic_error_codes": errors})()

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def _fake_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "AIOKafkaAdminClient", FakeAdmin)


async def test_a_topic_is_deleted_after_a_test_that_fails() -> None:
    """The error of the test is raised."""
    with pytest.raises(ValueError, match="a test"):
        async with topics.provision("kafka://host", "mine", ()):
            raise ValueError("a test")
    assert FakeAdmin.last.deleted == ["mine"]
    assert FakeAdmin.last.is_closed


async def test_a_topic_that_was_there_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to somebody else."""
    monkeypatch.setattr(FakeAdmin, "existing", frozenset(("theirs",)))
    async with topics.provision("kafka://host", "theirs", ()):
        pass
    assert FakeAdmin.last.deleted == []
    assert FakeAdmin.last.is_closed


async def test_a_topic_that_cannot_be_deleted_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and not raised, so that the error of the test is seen."""
    monkeypatch.setattr(FakeAdmin, "deletion_error", TopicAuthorizationFailedError)
    async with topics.provision("kafka://host", "mine", ()):
        pass
    assert "topic 'mine' is left: it cannot be deleted (TopicAuthorizationF" in caplog.text
    assert FakeAdmin.last.is_closed


@pytest.mark.parametrize("existing", [frozenset(), frozenset(("mine",))], ids=["ours", "theirs"])
async def test_a_topic_is_deleted_if_its_creation_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, existing: frozenset[str]
) -> None:
    """The broker creates it all the same; whose it is says the answer."""
    monkeypatch.setattr(FakeAdmin, "creates", False)
    monkeypatch.setattr(FakeAdmin, "existing", existing)

    async def test() -> None:
        async with topics.provision("kafka://host", "mine", ()):
            pytest.fail("it has started")

    running = asyncio.create_task(test())
    await turns()
    assert FakeAdmin.last.is_creating
    running.cancel()
    await turns()
    FakeAdmin.last.may_create.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert FakeAdmin.last.deleted == ([] if existing else ["mine"])
    assert FakeAdmin.last.is_closed
