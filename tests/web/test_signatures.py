"""Signatures that no request could be bound to: each mistake is reported at start."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import AliasPath, BaseModel, Field
from typing_extensions import TypeAliasType

from gizmopy.errors import DeclarationError
from gizmopy.web import Body, Cookie, Form, Header, Query, UploadFile
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import Route
from tests.web.support import echo_endpoint


class Numbered(enum.Enum):
    ONE = 1


class NewCat(BaseModel):
    name: str


class Paging(BaseModel):
    limit: int = 20


class WithFile(BaseModel):
    file: UploadFile | None = None


cycle: dict[str, Any] = {}
cycle["cycle"] = cycle


class Cyclic(BaseModel):
    value: dict[str, Any] = cycle
    file: UploadFile


class Nested(BaseModel):
    paging: Paging


class Shaped(BaseModel):
    shape: list[list[int]]


class ByPath(BaseModel):
    first: int = Field(validation_alias=AliasPath("a", 0))


class Tags(BaseModel):
    tags: list[str]


class Closed(BaseModel, extra="forbid"):
    tenant: str


class Point(NamedTuple):
    x: int


class Opaque:
    pass


Pair = TypeAliasType("Pair", tuple[int, int])


def refusal(route: Route) -> str:
    """Return the error of an endpoint, which names its file and line."""
    with pytest.raises(DeclarationError) as refused:
        compile_endpoint(route)
    text = str(refused.value)
    assert re.match(r"\S+:\d+: .*(echo|lambda)", text)
    return text


@pytest.mark.parametrize(
    ("path", "annotations", "reason"),
    [
        ("/{id}", {}, "has no parameter for 'id' of its path '/{id}'; add id: str"),
        ("/{id}", {"id": (int, 1)}, "path parameter 'id' has a default"),
        ("/{id}", {"id": list[int]}, "path parameter 'id' is one text"),
        ("/{id}", {"id": NewCat}, "path parameter 'id' is one text"),
        ("/{a}", {"a": Annotated[str, Header("X")]}, "has no parameter for 'a' of its path"),
        ("/{a}", {"a": Annotated[str, Body()]}, "is a variable of the path, which Body("),
        ("/{a}", {"a": Annotated[str, Query("x")]}, "has no parameter for 'a' of its path"),
    ],
)
def test_a_path_variable_needs_a_parameter_of_text(
    path: str, annotations: dict[str, Any], reason: str
) -> None:
    """A path variable is always present, and is one text."""
    assert reason in refusal(Route("GET", path, echo_endpoint(**annotations)))


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (bytes, "takes 'a' from the body, but a GET request has none"),
        (bytearray, "query parameter 'a' is read from text, which cannot give"),
        (list[bytes], "which cannot give <class 'bytes'>"),
        (Any, "which cannot give typing.Any"),
        (list[list[int]], "which cannot give list[list[int]]"),
        (list[Pair], "which cannot give list[Pair]"),
        (list[int] | int, "which cannot give list[int] | int"),
        (Literal[1, 2], "which cannot give typing.Literal[1, 2]"),
        (Numbered, "which cannot give <enum 'Numbered'>"),
        (Point, "which cannot give <class"),
        (Callable[[], int], "which cannot give"),
        (Annotated[bytes, Query("x")], "which cannot give <class"),
        (Annotated[dict, Header("X")], "header parameter 'a' is one text"),
        (Annotated[dict, Query("x")], "query parameter 'a' is one text"),
        (Opaque, "parameter 'a' has a type that cannot be validated"),
        (Annotated[str, Field(pattern="(")], "regex parse error"),
        ("Gone", "its annotations cannot be resolved"),
    ],
)
def test_a_query_or_header_parameter_needs_a_type_of_text(annotation: Any, reason: str) -> None:
    """Text cannot give bytes, nested lists, or a type that is unknown to pydantic."""
    assert reason in refusal(Route("GET", "/", echo_endpoint(a=annotation)))


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Annotated[str, Header("")], "a Header without a name"),
        (Annotated[str, Header], 'a Header without a name; write Header("X-Name")'),
        (Annotated[str, Query], "has the class Query as its mark; write Query()"),
        (Annotated[str, Cookie], "has the class Cookie as its mark; write Cookie()"),
        (Annotated[Paging, Query("x")], "is a model, whose fields have names of their own"),
        (Annotated[str, Query("x"), Header("X")], "parameter 'a' is marked as "),
    ],
)
def test_a_parameter_has_one_mark(annotation: Any, reason: str) -> None:
    """A Header needs a name, a model has none, and one parameter cannot have two marks."""
    assert reason in refusal(Route("GET", "/", echo_endpoint(a=annotation)))


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (Annotated[Nested, Query()], "is one text, which cannot be an object; write Json"),
        (Annotated[Shaped, Query()], "is read from text, which cannot give list[list[int]]"),
        (Annotated[ByPath, Query()], "has an AliasPath"),
        (Annotated[Tags, Cookie()], "is one cookie, which has one value"),
        (Annotated[Closed, Header()], "clients send headers that it does not know"),
        (Annotated[list[str], Cookie()], "cookie parameter 'a' is one text"),
        (Annotated[Paging | Tags, Query()], "query parameter 'a' is one text"),
        (Annotated[list[Paging], Query()], "query parameter 'a' is one text"),
    ],
)
def test_the_fields_of_a_model_of_parameters_are_texts(annotation: Any, reason: str) -> None:
    """The error names the model and its place, as well as the endpoint."""
    text = refusal(Route("GET", "/", echo_endpoint(a=annotation)))
    assert reason in text
    assert "text" not in reason or "'a'" in text or "test_signatures.py:" in text


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        (
            {"a": str, "b": Annotated[int, Query("a")]},
            "takes 'a' and 'b' both from 'a' in the query; keep one",
        ),
        (
            {"a": Annotated[str, Header("X-A")], "b": Annotated[str, Header("x-a")]},
            "takes 'a' and 'b' both from 'x-a' in the header",
        ),
        (
            {"limit": int, "p": Annotated[Paging, Query()]},
            "takes 'limit' and 'p.limit' both from 'limit' in the query",
        ),
        (
            {"a": Annotated[str, Cookie("s")], "s": Annotated[str, Cookie()]},
            "takes 'a' and 's' both from 's' in the cookie",
        ),
    ],
)
def test_a_key_belongs_to_one_parameter(annotations: dict[str, Any], reason: str) -> None:
    """Two parameters cannot take one key; the names of headers ignore case."""
    assert reason in refusal(Route("GET", "/", echo_endpoint(**annotations)))


@pytest.mark.parametrize(
    ("method", "annotations", "reason"),
    [
        ("POST", {"a": NewCat, "b": dict}, "takes 'a' and 'b' from the body"),
        ("GET", {"a": NewCat}, "takes 'a' from the body, but a GET request has none"),
        ("HEAD", {"a": dict}, "takes 'a' from the body, but a HEAD request has none"),
        ("GET", {"a": bytes}, "takes 'a' from the body, but a GET request has none"),
        ("GET", {"a": Annotated[str, Body()]}, "takes 'a' from the body, but a GET request"),
        ("POST", {"a": bytes, "b": dict}, "takes 'a' and 'b' from the body"),
        ("GET", {"a": UploadFile}, "takes 'a' from the body, but a GET request has none"),
        ("GET", {"a": Annotated[str, Form()]}, "takes 'a' from the body, but a GET request"),
        (
            "POST",
            {"a": NewCat, "b": Annotated[str, Form()]},
            "takes 'b' from a form and 'a' from a whole body; a request has one body",
        ),
        ("POST", {"a": bytes, "b": UploadFile}, "takes 'b' from a form and 'a' from a whole body"),
        ("POST", {"a": WithFile}, "from JSON, which has no files; write a: Annotated[..., Form()]"),
        ("POST", {"a": dict[str, UploadFile]}, "from JSON, which has no files"),
        ("POST", {"a": UploadFile | str}, "cannot give <class"),
        (
            "POST",
            {"a": Annotated[UploadFile | str, Form()]},
            "form parameter 'a' is read from text",
        ),
        ("POST", {"a": Annotated[bytes, Form()]}, "or UploadFile for a file"),
        ("POST", {"a": (Cyclic, None)}, "from JSON, which has no files"),
        ("POST", {"a": Annotated[UploadFile, Query()]}, "query parameter 'a' is read from text"),
        ("POST", {"a": Annotated[WithFile, Query()]}, "which cannot give <class"),
        ("POST", {"a": Annotated[Nested, Form()]}, "is one text, which cannot be an object"),
        ("POST", {"a": Annotated[dict[str, str], Form()]}, "form parameter 'a' is one text"),
        ("POST", {"a": Annotated[NewCat, Form("x")]}, "a model, whose fields have names of their"),
        ("POST", {"a": Annotated[str, Form]}, "has the class Form as its mark; write Form()"),
        (
            "POST",
            {"limit": Annotated[int, Form()], "p": Annotated[Paging, Form()]},
            "takes 'limit' and 'p.limit' both from 'limit' in the form",
        ),
        ("POST", {"a": bytes, "b": Annotated[str, Body()]}, "takes 'a' and 'b' from the body"),
        ("POST", {"a": Annotated[str, Body]}, "has the class Body as its mark; write Body()"),
        ("POST", {"a": Annotated[NewCat, Body("text/csv")]}, "'text/csv', which is not JSON"),
        ("POST", {"a": dict[str, Opaque]}, "has a type that cannot be validated"),
    ],
)
def test_a_request_has_one_body(method: str, annotations: dict[str, Any], reason: str) -> None:
    """An endpoint takes one body, and none for GET and HEAD."""
    assert reason in refusal(Route(method, "/", echo_endpoint(**annotations)))


def test_an_endpoint_is_async() -> None:
    """A function that is not async would block the event loop."""
    not_async: Any = lambda: None  # noqa: E731 - the mistake in question
    assert "is not async" in refusal(Route("GET", "/", not_async))


def test_a_parameter_needs_a_type() -> None:
    """The type says which part of the request a parameter comes from."""

    async def untyped(a): ...  # type: ignore[no-untyped-def]  # the mistake in question

    with pytest.raises(DeclarationError, match="untyped: parameter 'a' has no type"):
        compile_endpoint(Route("GET", "/", untyped))
