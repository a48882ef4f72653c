"""Have pydantic say that fields are missing without a copy of all that is there instead.

For each required field that is missing, pydantic's error copies the object that lacks it. 1 MB of
JSON in an unknown field took 443 MB and a second for a model with 10 required fields; 16 KB took
4 GB for a model with 30 fields that contains itself. So a required field gets ``ABSENT`` as its
default, and its type refuses that: the error holds ``ABSENT`` then. Only types get it that are
known to refuse any object: a validator of the user's may take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = object()
"""Stands for a field that is missing. An ``object``: pydantic looks for no attributes in it."""

_FIELDS = frozenset(("dataclass-field", "model-field", "typed-dict-field"))
_REFUSING = frozenset(
    (
        *("bool", "bytes", "complex", "date", "datetime", "decimal", "dict", "float", "frozenset"),
        *("int", "json", "list", "literal", "multi-host-url", "none", "set", "str", "time"),
        *("timedelta", "tuple", "typed-dict", "url", "uuid", "dataclass-args", "model-fields"),
    )
)
"""Types of schemas that take no ``object``, with any options."""
_AS_INNER = frozenset(("dataclass", "function-after", "nullable"))
"""Those that take the values of the schema within them, or fewer."""


class AbsentFields:
    """Give the required fields of ``schema`` their default."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._definitions = {each["ref"]: each for each in _definitions(schema)}

    def change(self, part: dict[str, Any]) -> None:
        """Change ``part``, a dict in the schema, if it is a field that has to be there."""
        if part.get("type") not in _FIELDS or part.get("init") is False:
            return
        if part["type"] == "typed-dict-field":
            if not part.get("required"):
                return
        elif part["schema"]["type"] == "default":
            return
        if self._refuses(part["schema"], frozenset()):
            part["schema"] = {
                "type": "default",
                "schema": part["schema"],
                "default": ABSENT,
                "validate_default": True,
            }
            if "required" in part:
                part["required"] = False

    def _refuses(self, schema: Mapping[str, Any], seen: frozenset[str]) -> bool:
        """Return whether ``schema`` refuses ``ABSENT`` for sure, without code of the user's."""
        kind = schema["type"]
        if kind in _REFUSING:
            return True
        if kind in _AS_INNER or (kind == "model" and not schema.get("custom_init")):
            return self._refuses(schema["schema"], seen)
        if kind == "enum":
            return "missing" not in schema
        if kind == "union":
            choices = [each[0] if isinstance(each, tuple) else each for each in schema["choices"]]
            return all(self._refuses(each, seen) for each in choices)
        if kind == "tagged-union":
            return not callable(schema["discriminator"])
        if kind == "definition-ref":
            name = schema["schema_ref"]
            if name in seen:  # it is within itself, so that this is decided further out
                return True
            found = self._definitions.get(name)
            return found is not None and self._refuses(found, seen | {name})
        return False


def _definitions(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if schema.get("type") == "definitions":
        yield from schema["definitions"]
