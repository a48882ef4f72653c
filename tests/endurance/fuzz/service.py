"""The service that the fuzzer attacks: one endpoint for each way to read a request."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from aiohttp import BodyPartReader, MultipartReader, web
from pydantic import BaseModel, Field

from gizmopy import Service, get, post, put
from gizmopy.config.duration import Duration
from gizmopy.web import Header, Query

_ATTRIBUTES = (
    *("url", "rel_url", "path", "raw_path", "query", "query_string", "host", "remote", "scheme"),
    *("headers", "raw_headers", "cookies", "content_type", "charset", "content_length"),
    *("if_match", "if_none_match", "if_modified_since", "if_unmodified_since", "if_range"),
    *("forwarded", "http_range", "keep_alive", "version", "can_read_body", "body_exists"),
)


class Dog(BaseModel):
    """A kind of pet."""

    kind: Literal["dog"]
    name: str


class Cat(BaseModel):
    """A kind of pet with fields of several types."""

    kind: Literal["cat"]
    name: str = Field(max_length=100)
    born: date | None = None
    nap: Duration | None = None
    lives: dict[int, str] = {}


class Fuzzed(Service):
    """Read requests in every way that gizmopy offers."""

    @get("/")
    async def index(self) -> dict[str, str]:
        """Answer without a look at the request."""
        return {"hello": "world"}

    @get("/pets/{id}")
    async def get_pet(
        self, id: int, tag: list[str], page: Annotated[int, Query("page-size")] = 1
    ) -> dict[str, object]:
        """Read the path and the query."""
        return {"id": id, "tags": tag, "page": page}

    @put("/pets/{id}")
    async def put_pet(
        self,
        id: int,
        pet: Annotated[Cat | Dog, Field(discriminator="kind")],
        tenant: Annotated[str, Header("X-Tenant")] = "",
    ) -> dict[str, object]:
        """Read a JSON body and a header."""
        return {"id": id, "pet": pet.model_dump(mode="json"), "tenant": tenant}

    @get("/files/{name}-{version}.{ext}")
    async def get_file(self, name: str, version: str, ext: str) -> dict[str, str]:
        """Read several variables of one segment."""
        return {"name": name, "version": version, "ext": ext}

    @get("/tree/{path:.*}")
    async def get_tree(self, path: str) -> dict[str, str]:
        """Read the rest of the path."""
        return {"path": path}

    @post("/raw")
    async def post_raw(self, request: web.Request) -> bytes:
        """Read the body as it comes; the echo cannot look like an answer of its own."""
        return b"=" + await request.read()

    @post("/ignored")
    async def post_ignored(self) -> dict[str, bool]:
        """Answer before the body was read."""
        return {"read": False}

    @post("/form")
    async def post_form(self, request: web.Request) -> dict[str, int]:
        """Read a form, which may have several parts."""
        return {"fields": len(await request.post())}

    @get("/all")
    async def get_all(self, request: web.Request) -> dict[str, str]:
        """Read all that aiohttp finds in a head."""
        return {name: ascii(getattr(request, name)) for name in _ATTRIBUTES} | {
            "host": ascii(request.url.host),
            "port": ascii(request.url.port),
            "human": request.url.human_repr(),
        }

    @post("/all")
    async def post_all(self, request: web.Request) -> dict[str, str]:
        """Read the same, and a text."""
        return {"text": await request.text()} | await self.get_all(request)

    @post("/parts")
    async def post_parts(self, request: web.Request) -> dict[str, int]:
        """Read the parts of a body, which may be bodies themselves."""
        return {"bytes": await self._size(await request.multipart())}

    async def _size(self, reader: MultipartReader) -> int:
        size = 0
        async for part in reader:
            if isinstance(part, BodyPartReader):
                size += len(await part.read(decode=True)) + len(part.filename or part.name or "")
            elif part is not None:
                size += await self._size(part)
        return size

    @post("/content")
    async def post_content(self, request: web.Request) -> dict[str, int]:
        """Read the body in pieces."""
        return {"bytes": sum([len(part) async for part in request.content.iter_chunked(1000)])}

    @get("/file")
    async def get_file_itself(self) -> web.StreamResponse:
        """Answer with a file."""
        return web.FileResponse(__file__)

    @get("/stream")
    async def get_stream(self, request: web.Request) -> web.StreamResponse:
        """Answer in several chunks."""
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"chunk")
        await response.write_eof()
        return response

    @get("/ws")
    async def get_ws(self, request: web.Request) -> web.StreamResponse:
        """Echo over a WebSocket."""
        socket = web.WebSocketResponse(max_msg_size=64 * 1024)
        await socket.prepare(request)
        async for message in socket:
            if message.type is web.WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket


if __name__ == "__main__":
    Fuzzed.run()
