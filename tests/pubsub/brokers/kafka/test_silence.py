"""How long a broker waits for a sign of life of a member."""

from __future__ import annotations

from gizmopy.pubsub import registry as drivers


async def test_the_silence_of_a_member_is_its_session() -> None:
    """The engine warns if the event loop was blocked for longer than the session."""
    driver = drivers.open_driver("kafka://localhost:9092?session_timeout=6s")
    assert driver.capabilities.silence == 6
    await driver.aclose()
