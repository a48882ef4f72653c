"""The service that the fuzzer attacks: one endpoint for each way to read a request."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from gizmopy import Service, get, post, put
from gizmopy.config.duration import Duration
from gizmopy.web import Header, Query


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
        """Read the body as it comes."""
        return await request.read()

    @post("/ignored")
    async def post_ignored(self) -> dict[str, bool]:
        """Answer before the body was read."""
        return {"read": False}

    @post("/form")
    async def post_form(self, request: web.Request) -> dict[str, int]:
        """Read a form, which may have several parts."""
        return {"fields": len(await request.post())}

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
