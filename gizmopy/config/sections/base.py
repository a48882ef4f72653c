"""The base class of the sections, a short form of pydantic's ``Field``, and common types."""

from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, field_validator

from gizmopy.config.marks import Shown
from gizmopy.config.plain_text import validated_text
from gizmopy.config.validation import validation_error

T = TypeVar("T")


class SectionBase(BaseModel):
    """Settings of one subject.

    Only ``Settings``, which inherits from all sections, is used to validate values. So the sections
    leave their validators unbuilt (``defer_build``): building them took 5 ms of each start.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _validate_text(cls, value: object) -> object:
        return validated_text(value)


def setting(environment: str, default: T, description: str, *, or_from: str = "") -> T:
    """Declare a setting with its environment name; ``or_from`` is a second, weaker name."""
    names = AliasChoices(environment, or_from) if or_from else environment
    field: T = Field(default=default, validation_alias=names, description=description)
    return field


def _starts_with_slash(path: str) -> str:
    if not path.startswith("/"):
        raise validation_error("does not begin with a slash", f"write /{path}")
    return path


def _header_value(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        remedy = "write printable ASCII, as in application/json"
        raise validation_error("is not a valid value of a header", remedy)
    return text


Text = Annotated[str, Shown]
"""Text that is not a secret: an address, a path, a name."""
UrlPath = Annotated[Text, AfterValidator(_starts_with_slash)]
HeaderValue = Annotated[Text, AfterValidator(_header_value)]
Port = Annotated[int, Field(ge=0, le=65535)]
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
