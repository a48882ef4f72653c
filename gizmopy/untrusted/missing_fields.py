"""Make pydantic report missing fields without a copy of the object that lacks them.

For each required field that is missing, pydantic's error copies the object that lacks it. 1 MB of
JSON in an unknown field took 443 MB and a second for a model with 10 required fields; 16 KB took
4 GB for a model with 30 fields that contains itself. So a required field gets ``ABSENT`` as its
default, which its type rejects: then the error copies ``ABSENT``. Only types that reject every
object get the default, because a validator of the user's might accept it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = object()
"""The value of a missing field. pydantic reads no attributes of a plain ``object``."""

_FIELDS = frozenset(("dataclass-field", "model-field", "typed-dict-field"))
_REJECTING = frozenset(
    (
        *("bool", "bytes", "complex", "date", "datetime", "decimal", "dict", "float", "frozenset"),
        *("int", "json", "list", "literal", "multi-host-url", "none", "set", "str", "time"),
        *("timedelta", "tuple", "typed-dict", "url", "uuid", "dataclass-args", "model-fields"),
    )
)
"""Types of schemas that reject an ``object``, whatever their options."""
_AS_INNER = frozenset(("dataclass", "function-after", "nullable"))
"""Types of schemas that reject every value that the schema within them rejects."""


class AbsentFields:
    """Set the default of the required fields in ``schema``."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._definitions = {each["ref"]: each for each in _definitions(schema)}

    def change(self, part: dict[str, Any]) -> None:
        """Change ``part``, a dict in the schema, if it is a required field."""
        if part.get("type") not in _FIELDS or part.get("init") is False:
            return
        if part["type"] == "typed-dict-field":
            if not part.get("required"):
                return
        elif part["schema"]["type"] == "default":
            return
        if self._rejects(part["schema"], frozenset()):
            part["schema"] = {
                "type": "default",
                "schema": part["schema"],
                "default": ABSENT,
                "validate_default": True,
            }
            if "required" in part:
                part["required"] = False

    def _rejects(self, schema: Mapping[str, Any], seen: frozenset[str]) -> bool:
        """Return whether ``schema`` certainly rejects ``ABSENT``, without code of the user's."""
        kind = schema["type"]
        if kind in _REJECTING:
            return True
        if kind in _AS_INNER or (kind == "model" and not schema.get("custom_init")):
            return self._rejects(schema["schema"], seen)
        if kind == "enum":
            return "missing" not in schema
        if kind == "union":
            choices = [each[0] if isinstance(each, tuple) else each for each in schema["choices"]]
            return all(self._rejects(each, seen) for each in choices)
        if kind == "tagged-union":
            return not callable(schema["discriminator"])
        if kind == "definition-ref":
            name = schema["schema_ref"]
            # A schema within itself: the outer call decides.
            if name in seen:
                return True
            found = self._definitions.get(name)
            return found is not None and self._rejects(found, seen | {name})
        return False


def _definitions(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if schema.get("type") == "definitions":
        yield from schema["definitions"]
