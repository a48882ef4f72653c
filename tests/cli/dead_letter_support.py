"""A broker with positions whose scheme is of a third party, and dead letters in it."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from gizmopy.pubsub import Message
from gizmopy.pubsub import registry as drivers
from tests.pubsub.log_broker import LogBroker

QUICK = ("--wait", "0.1")


def a_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LogBroker:
    """Register logs:// for a broker with one partition per topic, and set GIZMO_PUBSUB_URL."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIZMO_CONFIG", "GIZMO_TOPIC_CATS", "GIZMO_SUBSCRIPTION_DEAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIZMO_PUBSUB_URL", "logs://host")
    module = ModuleType("thirdparty_logs")
    broker = LogBroker(partitions=1)
    module.open_driver = lambda url: broker  # type: ignore[attr-defined]  # the fixture sets it
    monkeypatch.setitem(sys.modules, "thirdparty_logs", module)
    point = EntryPoint("logs", "thirdparty_logs:open_driver", drivers.GROUP)
    monkeypatch.setattr(drivers, "entry_points", lambda *, group: [point])
    return broker


def dead_letter(broker: LogBroker, *bodies: bytes, topic: str = "dead", **attributes: str) -> None:
    """Publish dead letters."""
    named = {"gizmo-dl-source-topic": "cats", "gizmo-dl-message-id": "7"}
    named |= {f"gizmo-{name}".replace("_", "-"): text for name, text in attributes.items()}
    for body in bodies:
        broker.append(Message(topic, body, attributes=named, id=f"dead-{body.decode()}"))


def bodies(broker: LogBroker, topic: str) -> list[bytes | None]:
    """Return the bodies of the messages in a topic."""
    return [message.body for message in broker.logs(topic)[0].messages]
