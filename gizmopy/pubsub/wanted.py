"""Choose dead letters by reason, key, text or id."""

from __future__ import annotations

from dataclasses import dataclass

from gizmopy.pubsub.message import Message


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Say which dead letters are meant: those that all given conditions hold for."""

    match: str = ""
    """A text in the reason or in the exception."""
    reason: str = ""
    """A text in the reason."""
    key: str | None = None
    """The key."""
    text: str = ""
    """A text in the body, in UTF-8, or in the value of an attribute."""
    ids: frozenset[str] = frozenset()
    """Ids of dead letters, or of the messages that they were; empty: any."""

    @property
    def is_all(self) -> bool:
        """Whether all dead letters are meant."""
        return self == Wanted()

    def __call__(self, message: Message) -> bool:
        """Return whether a dead letter, whose attributes have the names of today, is meant."""
        attributes = message.attributes
        reason = attributes.get("gizmo-dl-reason", "")
        if self.ids and self.ids.isdisjoint((message.id, attributes.get("gizmo-dl-message-id"))):
            return False
        if self.key is not None and self.key != message.key:
            return False
        if self.match not in reason and self.match not in attributes.get("gizmo-dl-exception", ""):
            return False
        return self.reason in reason and self._has_text(message)

    def _has_text(self, message: Message) -> bool:
        if self.text.encode("utf-8", "surrogateescape") in (message.body or b""):
            return True
        return any(self.text in value for value in message.attributes.values())
