"""Describe security schemes: the components, and the requirements of each operation."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from gizmopy.web.openapi.schemas import Schema
from gizmopy.web.security.declared import Alternative, Security

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]")

Requirements = list[dict[str, list[str]]]
"""The alternatives of an operation: one of them has to be met."""


class SecuritySchemes:
    """The schemes of several endpoints, each under a name of its own.

    A scheme has the name of its checker. Equal ones share it, so that a page asks for each once.
    """

    def __init__(self, securities: Iterable[Security | None]) -> None:
        self.components: dict[str, Schema] = {}
        self._requirements = {each: self._describe(each) for each in dict.fromkeys(securities)}

    def requirements(self, security: Security | None) -> Requirements:
        """Return the requirements of an endpoint; none if everybody may call it."""
        return self._requirements[security]

    def _describe(self, security: Security | None) -> Requirements:
        if security is None:
            return []
        found: Requirements = [{self._named(each): []} for each in security.alternatives]
        return [*found, {}] if security.is_optional else found

    def _named(self, alternative: Alternative) -> str:
        text = alternative.description
        component: Schema = {
            **alternative.scheme.document(),
            **({"description": text} if text else {}),
        }
        first = _NOT_IN_A_NAME.sub("_", alternative.name)
        numbered = (f"{first}_{number}" for number in itertools.count(2))
        for name in itertools.chain([first], numbered):
            if self.components.setdefault(name, component) == component:
                return name
        raise AssertionError  # the names have no end
