"""provision: a topic is created and deleted, and only one that it has created."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError

from gizmopy.pubsub.brokers.kafka import topics


class FakeAdmin:
    """Record what is created and deleted."""

    existing: frozenset[str] = frozenset()
    last: FakeAdmin

    def __init__(self, **options: Any) -> None:
        self.deleted: list[str] = []
        self.is_closed = False
        FakeAdmin.last = self

    async def start(self) -> None: ...

    async def create_topics(self, new: list[NewTopic]) -> Any:
        error = TopicAlreadyExistsError if new[0].name in self.existing else NoError
        return type("Answer", (), {"topic_errors": [(new[0].name, error.errno, "")]})()

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"error_code": 0, "partitions": [{"error_code": 0}] * 4}]

    async def delete_topics(self, names: list[str]) -> None:
        self.deleted += names

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
