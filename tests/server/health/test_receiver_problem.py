"""A problem that a receiver reports in its status fails the health check."""

from __future__ import annotations

import pytest

from gizmopy.pubsub import Status
from gizmopy.server import Service
from tests.server.health.support import (
    Critical,
    WithEndpoints,
    WithoutEndpoints,
    daemon,
)

PROBLEM = "the coordinator of group 'friends' is not reached"


@pytest.mark.parametrize(
    ("service", "status"), [(WithEndpoints, 200), (Critical, 503), (WithoutEndpoints, 503)]
)
async def test_a_problem_of_a_receiver_affects_readiness_only_if_critical(
    service: type[Service],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the problem; without it the check passes again."""
    async with daemon(service) as running:
        assert await running.status() == 200
        with monkeypatch.context() as patch:
            patch.setattr(running.broker.receiver_, "status", lambda: Status(problem=PROBLEM))
            await running.until(lambda text: "failed" in text)
            assert PROBLEM in caplog.text
            assert await running.status() == status
        await running.until(lambda text: "failed" not in text)
        assert await running.status() == 200
