"""Pass requests that push a message to the receiver of their subscription."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from gizmopy.pubsub.driver import PushAnswer, PushedReceiver, Receiver


class PushTarget:
    """The receiver of one subscription, which may be replaced while its routes stay mounted.

    ``name`` is the subscription's in errors.
    """

    def __init__(self, name: str, receiver: Receiver) -> None:
        self.name = name
        self._receiver = cast(PushedReceiver, receiver)
        self._is_unused = True
        """Whether no subscriber has the receiver yet."""
        self.routes = [(route.method, route.path) for route in self._receiver.routes()]

    def take(self) -> Receiver | None:
        """Return the first receiver, if no subscriber has it yet."""
        is_unused, self._is_unused = self._is_unused, False
        return self._receiver if is_unused else None

    def replace(self, receiver: Receiver) -> None:
        """Pass requests to another receiver from now on."""
        self._receiver = cast(PushedReceiver, receiver)

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> PushAnswer:
        """Return the answer of the receiver to a request, once its message is settled."""
        for route in self._receiver.routes():
            if (route.method, route.path) == (method, path):
                return await route.handle(headers, body)
        return 404, {}, b""

    def refuse(self) -> None:
        """Have the requests answered whose messages are not received: there will be no receive."""
        self._receiver.refuse_pushes()

    async def aclose(self) -> None:
        """Close the receiver if no subscriber has taken it."""
        if (unused := self.take()) is not None:
            await unused.aclose()
