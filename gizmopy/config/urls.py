"""URLs of brokers, which hold passwords: one that was not escaped must not be read as something
else, and shown as that.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from gizmopy.config.plain_text import plain
from gizmopy.config.validation import refusal

_REMEDY = "in a name or a password write %40 for @, %2F for /, %3F for ?, %23 for #, %5B for ["


def checked(url: str) -> str:
    """Return ``url`` if it can be told where its hosts end; the refusal does not show it."""
    plain(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # its text holds the password
        raise refusal("cannot be read as a URL", _REMEDY) from None
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise refusal("has an @ after its hosts", _REMEDY)
    return url


BrokerUrl = Annotated[str, AfterValidator(checked)]
