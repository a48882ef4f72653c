"""Spell the names of channels as environment names do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gizmopy.config.validation import validation_error


@dataclass(frozen=True, slots=True)
class FromPrefix:
    """Mark a dict that takes an entry from every environment name with ``prefix``.

    The key of an entry is the rest of the name, spelled as ``channel_key`` spells it, in files too.
    """

    prefix: str


def channel_key(name: str) -> str:
    """Return a channel's name in upper case, with ``_`` for each character but A-Z and 0-9."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def by_channel_key(urls: object) -> object:
    """Return a mapping with its keys spelled by ``channel_key``; any other value unchanged.

    Raises ValueError if two names have the same key.
    """
    if not isinstance(urls, Mapping):
        return urls
    names: dict[str, Any] = {}
    for name in urls:
        key = channel_key(str(name))
        if key in names:
            reason = f"{names[key]!r} and {name!r} are both {key}"
            raise validation_error(reason, "keep one of them")
        names[key] = name
    return {key: urls[name] for key, name in names.items()}
