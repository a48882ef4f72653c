"""Forms: how their fields and files are bound, and how malformed ones are refused."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from aiohttp import ClientSession, FormData
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Json
from typing_extensions import TypedDict

from gizmopy.web import Form, Query, UploadFile
from gizmopy.web.decorators import Route, RouteOptions
from tests.web.support import echo_endpoint, errors_of, exchange, json_of, problem_of, serve

MULTIPART = "multipart/form-data; boundary=x"
URLENCODED = "application/x-www-form-urlencoded"


class Order(BaseModel):
    name: str
    number: int = Field(1, ge=1, alias="no")
    tags: list[str] = []
    gift: bool = False
    note: str | None = "none"


class Closed(BaseModel, extra="forbid"):
    name: str


class Open(BaseModel, extra="allow"):
    name: str


class WithFiles(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str
    number: int
    photo: UploadFile
    more: list[UploadFile] = []


@dataclass
class Bird:
    name: str


class Dog(TypedDict):
    name: str


def multipart(*parts: tuple[str, str | bytes], end: bytes = b"--x--\r\n") -> bytes:
    """Return a body; each part is its headers after ``form-data`` and its content."""
    body = b""
    for headers, content in parts:
        data = content.encode() if isinstance(content, str) else content
        head = f"--x\r\nContent-Disposition: form-data{headers}\r\n\r\n"
        body += head.encode() + data + b"\r\n"
    return body + end


async def post(client: ClientSession, data: Any, content_type: str = MULTIPART) -> Any:
    """Send a form; return the response."""
    return await client.post("/", data=data, headers={"Content-Type": content_type})


async def describe(photo: UploadFile) -> list[object]:
    """Return what a file is."""
    return [photo.filename, photo.content_type, photo.size, (await photo.read()).decode()]


@pytest.mark.parametrize("is_multipart", [False, True])
@pytest.mark.parametrize(
    ("annotation", "fields", "value"),
    [
        (Annotated[str, Form()], [("a", "ä ö+&=")], "ä ö+&="),
        (Annotated[int, Form()], [("a", "7")], 7),
        (Annotated[bool, Form()], [("a", "on")], True),
        (Annotated[list[int], Form()], [("a", "1"), ("b", "x"), ("a", "2")], [1, 2]),
        (
            Annotated[list[int], BeforeValidator(lambda v: v.split(",")), Form()],
            [("a", "1,2")],
            [1, 2],
        ),
        (Annotated[Json[dict[str, int]], Form()], [("a", '{"b":1}')], {"b": 1}),
        (Annotated[Literal["x", "y"], Form()], [("a", "y")], "y"),
        (Annotated[str, Form()], [("a", "")], ""),
        (Annotated[int, Form("page-size")], [("page-size", "7")], 7),
        ((Annotated[int | None, Form()], None), [("a", "")], None),
        ((Annotated[int, Form()], 5), [], 5),
        ((Annotated[str, Form()], "x"), [("a", "")], ""),
        (
            Annotated[Order, Form()],
            [
                ("name", "A"),
                ("no", "2"),
                ("tags", "x"),
                ("tags", "y"),
                ("gift", "on"),
                ("note", ""),
                ("other", "1"),
            ],
            Order.model_validate(
                {"name": "A", "no": 2, "tags": ["x", "y"], "gift": True, "note": ""}
            ),
        ),
        (Annotated[Order, Form()], [("name", "A"), ("no", "")], Order(name="A")),
        (Annotated[Bird, Form()], [("name", "A")], Bird("A")),
        (Annotated[Dog, Form()], [("name", "A")], {"name": "A"}),
        (
            Annotated[Open, Form()],
            [("name", "A"), ("b", "1"), ("c", "1"), ("c", "2")],
            Open.model_validate({"name": "A", "b": "1", "c": ["1", "2"]}),
        ),
        ((Annotated[Order | None, Form()], None), [("other", "1")], None),
    ],
)
async def test_fields_are_bound(
    annotation: Any, fields: list[tuple[str, str]], value: object, is_multipart: bool
) -> None:
    """Both media types of forms give the same values."""
    form = FormData(fields, quote_fields=False, default_to_multipart=is_multipart)
    async with serve(Route("POST", "/", echo_endpoint(a=annotation))) as client:
        assert await json_of(await client.post("/", data=form)) == {"a": repr(value)}


async def test_a_form_has_fields_models_and_other_parameters() -> None:
    """The query is bound beside it."""
    function = echo_endpoint(
        a=Annotated[int, Form()], m=Annotated[Order, Form()], q=int, r=Annotated[int, Query()]
    )
    async with serve(Route("PUT", "/", function)) as client:
        data = {"a": "1", "name": "A"}
        values = await json_of(await client.put("/?q=2&r=3", data=data))
        assert values == {"a": "1", "m": repr(Order(name="A")), "q": "2", "r": "3"}


@pytest.mark.parametrize("is_multipart", [False, True])
@pytest.mark.parametrize(
    ("annotation", "fields", "errors"),
    [
        (Annotated[int, Form()], [], [("a", "missing")]),
        (Annotated[int, Form()], [("a", "x")], [("a", "int_parsing")]),
        (Annotated[int, Form()], [("a", "")], [("a", "int_parsing")]),
        (Annotated[int, Form()], [("a", "1"), ("a", "2")], [("a", "repeated_field")]),
        (Annotated[list[int], Form()], [("a", "1"), ("a", "x")], [("a.1", "int_parsing")]),
        (
            Annotated[Order, Form()],
            [("no", "0")],
            [("name", "missing"), ("no", "greater_than_equal")],
        ),
        (Annotated[Order, Form()], [("name", "1"), ("name", "2")], [("name", "repeated_field")]),
        (Annotated[Closed, Form()], [("name", "1"), ("nam", "2")], [("nam", "extra_forbidden")]),
    ],
)
async def test_each_wrong_field_is_named(
    annotation: Any,
    fields: list[tuple[str, str]],
    errors: list[tuple[str, str]],
    is_multipart: bool,
) -> None:
    """They are in the body, as the fields of a JSON body are."""
    form = FormData(fields, quote_fields=False, default_to_multipart=is_multipart)
    async with serve(Route("POST", "/", echo_endpoint(a=annotation))) as client:
        found = await errors_of(await client.post("/", data=form))
        assert found == [("body", *each) for each in errors]


async def test_a_form_without_its_optional_files_may_be_urlencoded() -> None:
    """A required file needs multipart."""
    function = echo_endpoint(a=Annotated[int, Form()], f=(UploadFile | None, None))
    async with serve(Route("POST", "/", function)) as client:
        assert await json_of(await post(client, b"a=1", URLENCODED)) == {"a": "1", "f": "None"}
        response = await post(client, b"a=1&f=x", URLENCODED)
        assert await errors_of(response) == [("body", "f", "file_type")]


async def test_an_absent_body_is_a_form_without_fields() -> None:
    """No Content-Type is needed, and no JSON is asked for."""
    function = echo_endpoint(a=(Annotated[int, Form()], 5), f=(UploadFile | None, None))
    async with serve(Route("POST", "/", function)) as client:
        assert await json_of(await client.post("/")) == {"a": "5", "f": "None"}


@pytest.mark.parametrize(
    ("headers", "filename"),
    [
        ('; name="photo"; filename="cat.png"', "cat.png"),
        ("; name=photo; filename=cat.png", "cat.png"),
        ('; filename="naïve 猫.png"; name="photo"', "naïve 猫.png"),
        ("; name=photo; filename=\"x\"; filename*=UTF-8''na%C3%AFve.png", "naïve.png"),
        ("; name=photo; filename*=iso-8859-1'de'%E4.png", "ä.png"),
        ('; name="photo"; filename="a;b;c.png"', "a;b;c.png"),
        ('; name="photo"; filename="a\\"b\\\\c.png"', 'a"b\\c.png'),
        ('; name="photo"; filename="C:\\temp\\cat.png"', "C:\\temp\\cat.png"),
        ('; name="photo"; filename="../../etc/passwd"', "../../etc/passwd"),
        ('; name="photo"; filename="/etc/passwd"', "/etc/passwd"),
        ('; name="photo"; filename="%22a%22.png"', "%22a%22.png"),
    ],
)
async def test_the_name_of_a_file_is_as_it_was_sent(headers: str, filename: str) -> None:
    """It is the client's text, and no path: nothing is cut or repaired."""
    async with serve(Route("POST", "/", describe)) as client:
        headers += "\r\nContent-Type: image/png"
        response = await post(client, multipart((headers, "meow")))
        assert await json_of(response) == [filename, "image/png", 4, "meow"]


async def test_a_file_without_a_content_type_is_bytes() -> None:
    """A part without a file name, but with a type, is a file, too (RFC 7578 section 4.2)."""
    async with serve(Route("POST", "/", describe)) as client:
        response = await post(client, multipart(("; name=photo; filename=a", "")))
        assert await json_of(response) == ["a", "application/octet-stream", 0, ""]
        response = await post(client, multipart(("; name=photo\r\nContent-Type: a/b", "x")))
        assert await json_of(response) == ["", "a/b", 1, "x"]


EMPTY = ('; name="photo"; filename=""\r\nContent-Type: application/octet-stream', "")


async def test_an_empty_file_field_of_a_browser_is_no_file() -> None:
    """Browsers send an empty file without a name if none was chosen."""
    async with serve(Route("POST", "/", describe)) as client:
        assert await errors_of(await post(client, multipart(EMPTY))) == [
            ("body", "photo", "missing")
        ]
    function = echo_endpoint(photo=(UploadFile | None, None))
    async with serve(Route("POST", "/", function)) as client:
        assert await json_of(await post(client, multipart(EMPTY))) == {"photo": "None"}
    function = echo_endpoint(photo=(list[UploadFile], []))
    async with serve(Route("POST", "/", function)) as client:
        assert await json_of(await post(client, multipart(EMPTY))) == {"photo": "[]"}


async def test_a_form_has_several_files_and_fields() -> None:
    """Lists, optional files and texts, in a signature or in a model, however strict."""

    async def endpoint(
        files: list[UploadFile],
        model: Annotated[WithFiles, Form()],
        pages: tuple[UploadFile, ...] | None = None,
        title: Annotated[str, Form()] = "",
        cover: Annotated[UploadFile | None, Form("the-cover")] = None,
    ) -> list[object]:
        contents = [await each.read() for each in (*files, model.photo, *model.more)]
        return [*contents, model.name, model.number, pages, title, cover and cover.filename]

    form = FormData(quote_fields=False)
    for field, content in [("files", b"1"), ("more", b"4"), ("files", b"2"), ("photo", b"3")]:
        form.add_field(field, content, filename="x")
    form.add_field("the-cover", io.BytesIO(b"5"), filename="cover.png")
    for field, text in [("name", "Tom"), ("number", "7"), ("title", "A")]:
        form.add_field(field, text)
    async with serve(Route("POST", "/", endpoint)) as client:
        assert await json_of(await client.post("/", data=form)) == [
            *("1", "2", "3", "4", "Tom", 7, None, "A", "cover.png")
        ]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (("; name=photo", "x"), ("photo", "file_type")),
        (("; name=title; filename=a", "x"), ("title", "string_type")),
        (("; name=title", b"\xff"), ("title", "string_unicode")),
        (
            ("; name=title\r\nContent-Type: text/plain; charset=utf-8", b"\xff"),
            ("title", "string_unicode"),
        ),
    ],
)
async def test_a_file_is_no_text_and_a_text_no_file(
    part: tuple[str, str], error: tuple[str, str]
) -> None:
    """Nor are bytes text that do not fit its charset."""
    function = echo_endpoint(photo=(UploadFile | None, None), title=(Annotated[str, Form()], ""))
    async with serve(Route("POST", "/", function)) as client:
        assert await errors_of(await post(client, multipart(part))) == [("body", *error)]


async def test_a_repeated_file_needs_a_list() -> None:
    """Else one of them would be lost."""
    async with serve(Route("POST", "/", describe)) as client:
        parts = multipart(*[("; name=photo; filename=a", "x")] * 2)
        assert await errors_of(await post(client, parts)) == [("body", "photo", "repeated_field")]


async def test_texts_of_a_form_have_a_charset() -> None:
    """That of the part, else that of the field ``_charset_``, else UTF-8."""
    function = echo_endpoint(a=Annotated[str, Form()], b=(Annotated[str, Form()], ""))
    async with serve(Route("POST", "/", function)) as client:
        body = multipart(
            ("; name=_charset_", "iso-8859-1"),
            ("; name=a", b"\xe4"),
            ("; name=b\r\nContent-Type: text/plain; charset=utf-8", "ä"),
        )
        assert await json_of(await post(client, body)) == {"a": "'ä'", "b": "'ä'"}
        response = await post(client, b"a=%E4", URLENCODED + "; charset=iso-8859-1")
        assert await json_of(response) == {"a": "'ä'", "b": "''"}


async def test_a_blob_of_json_is_a_text() -> None:
    """Browsers send a file name with each Blob."""
    async with serve(
        Route("POST", "/", echo_endpoint(a=Annotated[Json[list[int]], Form()]))
    ) as client:
        headers = "; name=a; filename=blob\r\nContent-Type: application/json"
        assert await json_of(await post(client, multipart((headers, "[1]")))) == {"a": "[1]"}


async def test_other_fields_are_skipped() -> None:
    """Their files, too."""
    async with serve(Route("POST", "/", describe)) as client:
        body = multipart(
            ("; name=a; filename=b", "x" * 100_000),
            ("; name=photo; filename=c", "meow"),
            ("; name=d\r\nContent-Type: multipart/mixed", "--y"),
        )
        assert (await json_of(await post(client, body)))[0] == "c"


async def test_an_unknown_file_is_an_extra_field() -> None:
    """A model may refuse it."""
    async with serve(Route("POST", "/", echo_endpoint(a=Annotated[Closed, Form()]))) as client:
        body = multipart(("; name=name", "x"), ("; name=b; filename=c", "y"))
        assert await errors_of(await post(client, body)) == [("body", "b", "extra_forbidden")]


async def test_the_other_fields_of_an_open_model_are_texts() -> None:
    """Their files are skipped; bytes that do not fit are refused."""
    async with serve(Route("POST", "/", echo_endpoint(a=Annotated[Open, Form()]))) as client:
        name, other = ("; name=name", "x"), ("; name=b; filename=c", "y")
        response = await post(client, multipart(name, other, ("; name=d", "z")))
        bound = await json_of(response)
        assert bound == {"a": repr(Open.model_validate({"name": "x", "d": "z"}))}
        response = await post(client, multipart(name, ("; name=d", b"\xff")))
        assert await errors_of(response) == [("body", "d", "string_unicode")]


GOOD = ("; name=photo; filename=a", "x")


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        (URLENCODED, b"photo=x", 415),
        ("multipart/mixed; boundary=x", multipart(GOOD), 415),
        ("multipart/form-data", multipart(GOOD), 400),
        ("multipart/form-data; boundary=" + "y" * 71, multipart(GOOD), 400),
        ("multipart/form-data; boundary=y", multipart(GOOD), 400),
        (f"{MULTIPART}{';a=b' * 70}", multipart(GOOD), 400),
        (MULTIPART, multipart(GOOD, end=b""), 400),
        (MULTIPART, multipart(GOOD, end=b"--x"), 400),
        (MULTIPART, multipart(GOOD)[:-9], 400),
        (MULTIPART, multipart(GOOD)[:-12], 400),
        (MULTIPART, multipart(GOOD)[:30], 400),
        (MULTIPART, b"photo=x", 400),
        (MULTIPART, b"", 422),
        (MULTIPART, multipart(), 422),
        (MULTIPART, multipart(("", "x")), 400),
        (MULTIPART, multipart(("; name=", "x")), 400),
        (MULTIPART, multipart(('; name="photo', "x")), 400),
        (MULTIPART, multipart(("; name=photo; name=photo", "x")), 400),
        (MULTIPART, multipart(("; name=photo; filename*=utf-8''%ff", "x")), 400),
        (MULTIPART, multipart(("; name=photo; filename*0=a", "x")), 400),
        (MULTIPART, multipart(("; name=photo; filename*=punycode''a", "x")), 415),
        (
            MULTIPART,
            multipart(("; name=photo; filename=a\r\nContent-Transfer-Encoding: base64", "eA==")),
            415,
        ),
        (MULTIPART, multipart(("; name=photo; filename=a\r\nContent-Encoding: gzip", "x")), 415),
        (
            MULTIPART,
            multipart(("; name=photo; filename=a\r\nContent-Transfer-Encoding: binary", "x")),
            200,
        ),
        (MULTIPART, multipart(("; name=photo; filename=a\r\nX: " + "y" * 9000, "x")), 400),
        (MULTIPART, multipart(("; name=photo; filename=a" + "\r\nX: y" * 200, "x")), 400),
        (MULTIPART, b"\r\n" * 200 + multipart(GOOD), 400),
        (MULTIPART, b"preamble\r\n" + multipart(GOOD) + b"epilogue", 200),
    ],
)
async def test_a_malformed_form_is_refused(content_type: str, body: bytes, status: int) -> None:
    """A form that is cut off, has no boundary, or is no form is the client's fault."""
    async with serve(Route("POST", "/", describe)) as client:
        response = await post(client, body, content_type)
        assert response.status == status, await response.text()
        if status == 415 and "multipart/form-data" not in content_type:
            assert response.headers["Accept-Post"] == "multipart/form-data"


@pytest.mark.parametrize(
    ("body", "status"), [(b"%ff=1&a=1", 422), (b"a=%ff", 422), (b"a=\xff", 422), (b"a=1&&b", 200)]
)
async def test_a_form_that_is_not_utf8_is_refused(body: bytes, status: int) -> None:
    """Names, too: one could be that of a field that has a default."""
    async with serve(Route("POST", "/", echo_endpoint(a=Annotated[str, Form()]))) as client:
        assert (await post(client, body, URLENCODED)).status == status


async def test_a_form_without_files_names_both_media_types() -> None:
    """In Accept-Post."""
    async with serve(Route("POST", "/", echo_endpoint(a=Annotated[str, Form()]))) as client:
        response = await client.post("/", json={"a": "1"})
        await problem_of(response, 415)
        assert response.headers["Accept-Post"] == f"{URLENCODED}, multipart/form-data"


@pytest.mark.parametrize("content_type", [MULTIPART, URLENCODED])
async def test_the_number_of_fields_is_limited(content_type: str) -> None:
    """1,000 by default, or max_parts= of the endpoint."""
    function = echo_endpoint(a=Annotated[list[int], Form()])
    for max_parts in (None, 3):
        limit = max_parts or 1000
        route = Route("POST", "/", function, RouteOptions(max_parts=max_parts))
        async with serve(route) as client:
            for number, status in [(limit, 200), (limit + 1, 413)]:
                is_multipart = content_type == MULTIPART
                parts = multipart(*[("; name=a", "1")] * number)
                body = parts if is_multipart else b"&".join([b"a=1"] * number)
                response = await post(client, body, content_type)
                assert response.status == status
                if status == 413:
                    assert str(limit) in (await response.json(content_type=None))["detail"]


async def test_the_texts_of_a_form_with_files_are_limited() -> None:
    """They are kept in memory, whatever the limit for the files is."""
    function = echo_endpoint(photo=UploadFile, a=Annotated[list[str], Form()])
    async with serve(Route("POST", "/", function), client_max_size=0) as client:
        for size, status in [(500_000, 200), (600_000, 413)]:
            body = multipart(GOOD, *[("; name=a", "x" * size)] * 2)
            response = await post(client, io.BytesIO(body))
            assert response.status == status
            await response.read()


async def test_the_size_of_a_form_is_limited() -> None:
    """The limit of the request counts for multipart, too."""
    async with serve(Route("POST", "/", describe), client_max_size=1000) as client:
        body = multipart(("; name=photo; filename=a", "x" * 2000))
        await problem_of(await post(client, body), 413)


async def test_a_hostile_name_is_cut_in_the_error() -> None:
    """It comes from the client."""
    async with serve(Route("POST", "/", echo_endpoint(a=Annotated[Closed, Form()]))) as client:
        body = b"name=x&" + b"y" * 5000 + b"=1"
        data = (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        (error,) = (await exchange(client, data))[1]["errors"]
        assert len(error["field"]) < 1100
