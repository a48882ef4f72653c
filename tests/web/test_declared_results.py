"""The declared type of a result decides which values are right, and which fields are sent."""

from __future__ import annotations

import enum
import json
import traceback
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Protocol, TypeVar

import pytest
from aiohttp import web
from pydantic import (
    AfterValidator,
    AnyUrl,
    Base64Bytes,
    Base64Str,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    RootModel,
    SerializeAsAny,
    WrapValidator,
    computed_field,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from gizmopy.errors import DeclarationError, UsageError
from gizmopy.web import get
from gizmopy.web.binding import compile_endpoint
from gizmopy.web.decorators import Route, collect_routes
from tests.web.support import json_of, serve

NAN, INFINITY = float("nan"), float("inf")
T = TypeVar("T")


class User(BaseModel):
    id: int


class UserInDb(User):
    password_hash: str = "secret"


class Team(BaseModel):
    lead: User
    members: list[User] = []
    by_name: dict[str, User | None] = {}


class Tree(BaseModel):
    user: User
    children: list[Tree] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Bird:
    name: str


@dataclass
class BirdInDb(Bird):
    secret: str = "secret"


@dataclass
class Nest:
    birds: list[Bird] = field(default_factory=list)


class Row(TypedDict):
    id: int
    user: User


class Point(NamedTuple):
    x: int
    user: User


class Named(Protocol):
    name: str


class Record:
    """An object of another library, as an ORM has them."""

    id = 1
    password_hash = "secret"


class Colour(enum.Enum):
    BLACK = "black"


class Price(BaseModel):
    amount: float
    note: Any = None
    other: float | None = None


class NullPrice(Price):
    model_config = ConfigDict(ser_json_inf_nan="null")


class TextPrice(Price):
    model_config = ConfigDict(ser_json_inf_nan="strings")


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: float


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: float


class Counted(BaseModel):
    runs: list[int]

    @model_validator(mode="after")
    def count(self) -> Counted:
        """Count how often an object is validated."""
        self.runs.append(1)
        return self

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def length(self) -> int:
        """Return a field that only the answer has."""
        return len(self.runs)


class Split(BaseModel):
    tags: list[str]

    @field_validator("tags", mode="before")
    @classmethod
    def split(cls, value: Any) -> Any:
        """Split text; a list has no such method."""
        return value.split(",")


USER = UserInDb(id=1)
Euros = Annotated[
    int, BeforeValidator(lambda euros: int(euros * 100)), PlainSerializer(lambda cents: cents / 100)
]
Picture = NewType("Picture", bytes)


def returning(value: object, annotation: Any) -> Route:
    """Return a route whose endpoint returns ``value`` and declares ``annotation``."""

    async def endpoint() -> Any:
        return value

    endpoint.__annotations__ = {"return": annotation}
    return Route("GET", "/x", endpoint)


async def encode(value: object, annotation: Any) -> web.Response:
    """Return the response of an endpoint that returns ``value``; it reads no request."""
    handle = compile_endpoint(returning(value, annotation))
    response = await handle(None)  # type: ignore[arg-type]  # an endpoint without parameters
    assert isinstance(response, web.Response)
    return response


async def body_of(value: object, annotation: Any) -> Any:
    """Return the JSON of the response, which is strict: it has no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    response = await encode(value, annotation)
    assert response.content_type == "application/json"
    assert isinstance(response.body, bytes)
    return json.loads(response.body, parse_constant=refuse)


async def refusal(value: object, annotation: Any) -> str:
    """Return the error of a result that does not have the declared type."""
    with pytest.raises(UsageError) as refused:
        await encode(value, annotation)
    assert "secret" not in "".join(traceback.format_exception(refused.value))
    text = str(refused.value)
    assert text.startswith("GET /x: returning.<locals>.endpoint returned ")
    return text


@pytest.mark.parametrize(
    ("annotation", "value", "body"),
    [
        (User, USER, {"id": 1}),
        (User | None, USER, {"id": 1}),
        (User | web.Response | None, USER, {"id": 1}),
        (tuple[int, User], (201, USER), {"id": 1}),
        (tuple[Literal[201, 404], User], (201, USER), {"id": 1}),
        (tuple[HTTPStatus, User | None], (HTTPStatus.CREATED, USER), {"id": 1}),
        (list[User], [USER], [{"id": 1}]),
        (dict[str, list[User]], {"a": [USER]}, {"a": [{"id": 1}]}),
        (tuple[User, User], (USER, USER), [{"id": 1}, {"id": 1}]),
        (Page[User], Page[User](items=[USER]), {"items": [{"id": 1}]}),
        (Page[User], Page[Any](items=[USER]), {"items": [{"id": 1}]}),
        (
            Team,
            Team(lead=USER, members=[USER], by_name={"a": USER}),
            {"lead": {"id": 1}, "members": [{"id": 1}], "by_name": {"a": {"id": 1}}},
        ),
        (
            Tree,
            Tree(user=USER, children=[Tree(user=USER)]),
            {"user": {"id": 1}, "children": [{"user": {"id": 1}, "children": []}]},
        ),
        (Bird, BirdInDb("Tweety"), {"name": "Tweety"}),
        (Nest, Nest([BirdInDb("Tweety")]), {"birds": [{"name": "Tweety"}]}),
        (Row, {"id": 1, "user": USER, "more": "secret"}, {"id": 1, "user": {"id": 1}}),
        (list[Row], [{"id": 1, "user": USER, "more": 2}], [{"id": 1, "user": {"id": 1}}]),
        (Point, Point(1, USER), [1, {"id": 1}]),
        (RootModel[list[User]], RootModel[list[User]]([USER]), [{"id": 1}]),
        (Annotated[User, Field(description="text")], USER, {"id": 1}),
        (Iterator[User], iter([USER]), [{"id": 1}]),
        (Iterable[User], (each for each in [USER]), [{"id": 1}]),
        (Generator[User, None, None], (each for each in [USER]), [{"id": 1}]),
    ],
)
async def test_only_declared_fields_are_sent(annotation: Any, value: object, body: Any) -> None:
    """A subclass is sent as the declared class, at every depth."""
    assert await body_of(value, annotation) == body


@pytest.mark.parametrize(
    ("annotation", "value", "body"),
    [
        (User, {"id": "1", "password_hash": "secret"}, {"id": 1}),
        (User, Record(), {"id": 1}),
        (list[User], [Record(), {"id": 2}], [{"id": 1}, {"id": 2}]),
        (list[User], ({"id": each} for each in (1, 2)), [{"id": 1}, {"id": 2}]),
        (Bird, {"name": "Tweety", "secret": 1}, {"name": "Tweety"}),
        (int, "7", 7),
        (str, "ä", "ä"),
        (list[int], (1, 2), [1, 2]),
        (tuple[int, ...], (200, 5), [200, 5]),
        (tuple[int, int, int], (1, 2, 3), [1, 2, 3]),
        (tuple[bool, int], (True, 1), [True, 1]),
        (tuple[str, int], ("a", 1), ["a", 1]),
        (float, 1, 1.0),
        (Decimal, 1, "1"),
        (date, "2026-01-02", "2026-01-02"),
        (Colour, "black", "black"),
        (AnyUrl, "http://a/b", "http://a/b"),
        (dict[str, Any], {"a": [USER]}, {"a": [{"id": 1, "password_hash": "secret"}]}),
        (dict, {"a": 1}, {"a": 1}),
        (Split, {"tags": "a,b"}, {"tags": ["a", "b"]}),
        (Split, {"tags": ["a", "b"]}, {"tags": ["a", "b"]}),
        (Annotated[str, AfterValidator(str.upper)], "a", "A"),
    ],
)
async def test_any_other_value_is_validated_first(
    annotation: Any, value: object, body: Any
) -> None:
    """The validation is lax, and reads attributes of objects."""
    assert await body_of(value, annotation) == body


@pytest.mark.parametrize(
    ("annotation", "value", "field"),
    [
        (User, {"id": "secret"}, "id: Input should be a valid integer"),
        (User, {}, "id: Field required"),
        (list[User], [USER, {"id": "secret"}], "1.id: Input should be a valid integer"),
        (Team, {"lead": {"id": 1}, "members": [{}]}, "members.0.id: Field required"),
        (Iterator[User], iter([{}]), "0.id: Field required"),
        (Row, {"id": 1}, "user: Field required"),
        (Annotated[int, Field(ge=0)], -1, "value: Input should be greater than"),
        (Literal["a", "b"], "secret", "value: Input should be 'a' or 'b'"),
        (User, None, "annotate the endpoint with all that it returns, not only User"),
        (tuple[int, User], (200, None), "not only User"),
        (None, {"a": 1}, "not only None"),
        (User, (201, USER), "value: Input should be a valid dictionary or object"),
        (tuple[int, User], USER, "annotate the endpoint with all that it returns"),
        (tuple[Literal[200], User], (201, USER), "the status 201, but declares only: 200"),
        (User, b"secret", "value: "),
        (bytes, 5, "value: Input should be a valid bytes"),
        (Annotated[bytes, Field(max_length=2)], b"secret", "at most 2 bytes"),
    ],
)
async def test_a_misfit_names_the_endpoint_and_the_field(
    annotation: Any, value: object, field: str
) -> None:
    """The error quotes no value: it is logged, and the value may be a secret."""
    assert field in await refusal(value, annotation)


async def test_an_instance_is_not_validated_again() -> None:
    """Its class has validated it; also not inside of a list."""
    counted = Counted(runs=[])
    assert await body_of(counted, Counted) == {"runs": [1], "length": 1}
    assert await body_of([counted], list[Counted]) == [{"runs": [1], "length": 1}]


async def test_a_field_that_was_set_later_is_not_validated() -> None:
    """pydantic validates no assignment unless the class asks for it; neither does the answer."""
    user = User(id=1)
    user.id = "7"  # type: ignore[assignment]  # the case in question
    assert await body_of(user, User) == {"id": "7"}


@pytest.mark.parametrize(
    ("annotation", "value", "body"),
    [
        (Annotated[int, PlainSerializer(str)], 5, "5"),
        (
            list[Annotated[datetime, PlainSerializer(lambda at: at.year)]],
            [datetime(2026, 1, 1, tzinfo=UTC)],
            [2026],
        ),
        (list[Base64Bytes], [b"\xff", b"abcd"], ["/w==", "YWJjZA=="]),
        (Base64Bytes, b"abcd", "YWJjZA=="),
        (Base64Str, "abcd", "YWJjZA=="),
        (dict[str, Base64Bytes], {"a": b"abcd"}, {"a": "YWJjZA=="}),
        (Json[list[int]], [1, 2], [1, 2]),
        (Euros, 500, 5.0),
        (Annotated[list[str], BeforeValidator(lambda text: text.split(","))], ["a"], ["a"]),
        (
            Annotated[list[str], WrapValidator(lambda text, call: call(text.split(",")))],
            ["a"],
            ["a"],
        ),
        (timedelta, timedelta(hours=1), "PT1H"),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
    ],
)
async def test_the_serializers_of_the_type_are_used(
    annotation: Any, value: object, body: Any
) -> None:
    """A result is a value of Python: what decodes a client's input does not decode it again."""
    assert await body_of(value, annotation) == body


@pytest.mark.parametrize(
    ("annotation", "value", "body"),
    [
        (SerializeAsAny[User], USER, {"id": 1, "password_hash": "secret"}),
        (list[SerializeAsAny[User]], [USER], [{"id": 1, "password_hash": "secret"}]),
        (User | UserInDb, USER, {"id": 1, "password_hash": "secret"}),
        (list[User | UserInDb], [USER], [{"id": 1, "password_hash": "secret"}]),
        (
            Annotated[Circle | Square, Field(discriminator="kind")],
            {"kind": "square", "side": 1},
            {"kind": "square", "side": 1},
        ),
    ],
)
async def test_a_wider_type_sends_more(annotation: Any, value: object, body: Any) -> None:
    """SerializeAsAny and a union send the fields of subclasses."""
    assert await body_of(value, annotation) == body


@pytest.mark.parametrize(
    "annotation", [Any, object, BaseModel, Named, list[Any], list[BaseModel], list[Named], list]
)
async def test_nothing_is_declared(annotation: Any) -> None:
    """A value of Any, object, the bare BaseModel or a Protocol is encoded by its own class."""
    is_list = annotation is list or getattr(annotation, "__origin__", None) is list
    value = [USER] if is_list else USER
    body = {"id": 1, "password_hash": "secret"}
    assert await body_of(value, annotation) == ([body] if is_list else body)


@pytest.mark.parametrize("annotation", [web.Response, web.StreamResponse, Any, BaseModel, tuple])
async def test_a_status_is_read_if_nothing_is_declared(annotation: Any) -> None:
    """Without a declaration a pair of an int and a value is a status and a value."""
    if annotation in (web.Response, web.StreamResponse):
        assert "not only a response" in await refusal((201, USER), annotation)
        return
    response = await encode((201, USER), annotation)
    assert response.status == 201


@pytest.mark.parametrize(
    ("annotation", "value", "status"),
    [
        (None, None, 204),
        (User | None, None, 204),
        (Annotated[User | None, Field(description="x")], None, 204),
        (tuple[int, User | None], (404, None), 404),
        (tuple[Literal[204], None] | User, (204, None), 204),
        (tuple[int, User], (304, None), 304),
    ],
)
async def test_none_is_declared(annotation: Any, value: object, status: int) -> None:
    """None is an answer without a body, if the type has it."""
    response = await encode(value, annotation)
    assert (response.status, response.body) == (status, None)


async def test_each_status_has_its_type() -> None:
    """A union of pairs says which type belongs to which status."""
    annotation = tuple[Literal[200], User] | tuple[Literal[201], Bird] | tuple[int, int]
    for value, body in (
        ((200, USER), {"id": 1}),
        ((201, BirdInDb("x")), {"name": "x"}),
        ((202, 1), 1),
    ):
        response = await encode(value, annotation)
        assert response.status == value[0]
        assert json.loads(response.body) == body  # type: ignore[arg-type]  # it is bytes
    assert "value: " in await refusal((201, USER), tuple[Literal[201], int])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (bytes, b"\xff"),
        (bytes, bytearray(b"\xff")),
        (bytearray, bytearray(b"\xff")),
        (bytes | User, b"\xff"),
        (Picture, b"\xff"),
        (Annotated[bytes, "text"], b"\xff"),
        (tuple[int, bytes], (200, b"\xff")),
    ],
)
async def test_bytes_are_sent_as_they_are(annotation: Any, value: object) -> None:
    """Bytes that nothing encodes are no JSON."""
    response = await encode(value, annotation)
    assert (response.body, response.content_type) == (b"\xff", "application/octet-stream")


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(
    ("annotation", "make", "field"),
    [
        (float, lambda number: number, "value"),
        (list[float], lambda number: [1.0, number], "1"),
        (dict[str, float | None], lambda number: {"NaN": number}, "NaN"),
        (Price, lambda number: Price(amount=number), "amount"),
        (Price, lambda number: {"amount": 1, "other": number}, "other"),
        (list[Price], lambda number: [Price(amount=1, other=number)], "0.other"),
        (float | str, lambda number: number, "value"),
        (tuple[int, float], lambda number: (200, number), "value"),
        (Annotated[int, PlainSerializer(float, return_type=float)], None, "value"),
    ],
)
async def test_nan_is_no_number(number: float, annotation: Any, make: Any, field: str) -> None:
    """JSON has no NaN and no infinities (RFC 8259, section 6); null would be another type."""
    if make is None:
        annotation = Annotated[int, PlainSerializer(lambda _: number, return_type=float)]
    value = 1 if make is None else make(number)
    assert f"{field}: NaN and infinities are no JSON numbers" in await refusal(value, annotation)


@pytest.mark.parametrize(
    ("annotation", "value", "body"),
    [
        (NullPrice, NullPrice(amount=NAN), {"amount": None, "note": None, "other": None}),
        (TextPrice, TextPrice(amount=NAN), {"amount": "NaN", "note": None, "other": None}),
        (list[NullPrice], [NullPrice(amount=NAN)], [{"amount": None, "note": None, "other": None}]),
        (Price, Price(amount=1, note=NAN), {"amount": 1, "note": None, "other": None}),
        (Price, Price(amount=1, note="NaN"), {"amount": 1, "note": "NaN", "other": None}),
        (dict[str, Any], {"a": INFINITY}, {"a": None}),
        (tuple[float, Any], (1.0, NAN), [1.0, None]),
        (str, "Infinity", "Infinity"),
        (Any, NAN, None),
    ],
)
async def test_nan_where_the_type_allows_it(annotation: Any, value: object, body: Any) -> None:
    """The config of a class may say how NaN is written; as Any it is null."""
    assert await body_of(value, annotation) == body


@pytest.mark.parametrize(
    "annotation", [AsyncIterator[Record], Record, list[Record], list[web.Response], User | Record]
)
def test_a_type_without_a_json_form_is_refused_at_start(annotation: Any) -> None:
    """The declaration is compiled at start."""
    with pytest.raises(
        DeclarationError, match=r"endpoint: its (result has|items have) a type without a JSON form"
    ):
        compile_endpoint(returning(None, annotation))


async def test_a_value_without_a_json_form_names_the_endpoint() -> None:
    """An object of Any may have no JSON form."""
    assert "which has no JSON form: " in await refusal({"a": Record()}, dict[str, Any])
    assert "which has no JSON form: " in await refusal("\ud800", str)


async def test_a_service_sends_declared_fields_only() -> None:
    """Postponed annotations are resolved as for parameters."""

    class Users:
        @get("/users")
        async def users(self) -> list[User]:
            return [USER]

    async with serve(*collect_routes(Users())) as client:
        assert await json_of(await client.get("/users")) == [{"id": 1}]
