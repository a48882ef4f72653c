"""Lists of host names, as in GIZMO_ALLOWED_HOSTS."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from gizmopy.config.validation import comma_list, validation_error

_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]").fullmatch


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names`` in lower case. Raises ValueError if one is not a host name."""
    lower = tuple(name.lower().removesuffix(".") for name in names)
    if not all(map(_NAME, lower)):
        raise validation_error(
            "has an entry that is not a host name",
            "write names without scheme, port and path: cats.example, *.cats.example, 10.0.0.1 "
            "or [::1]; to allow every host, unset it",
        )
    return lower


HostNames = Annotated[tuple[str, ...], BeforeValidator(comma_list), AfterValidator(_host_names)]
"""Host names; ``*.`` before one matches every name below it."""
