"""Store photos that browsers upload, and list them in pages.

gizmopy run album:Album --folder /tmp
curl -F photo=@cat.png -F title=Tom localhost:8080/photos
curl 'localhost:8080/photos?limit=5'
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from aiohttp import web
from pydantic import BaseModel, Field

from gizmopy import Cookie, Form, Problem, Query, Service, Settings, UploadFile, get, post

PNG = b"\x89PNG\r\n\x1a\n"
PAGE = """<!doctype html>
<title>Album</title>
<form method="post" action="/photos" enctype="multipart/form-data">
<p><label>Title <input name="title"></label>
<p><label>Stars <input name="stars" type="number"></label>
<p><label>Photo <input name="photo" type="file" required></label>
<p><label>More <input name="more" type="file" multiple></label>
<p><button>Upload</button>
</form>
"""


class AlbumSettings(Settings):
    """Add a folder to the standard settings: FOLDER=…, --folder …"""

    folder: Path = Path("photos")


class Paging(BaseModel, extra="forbid"):
    """The parameters of every list."""

    limit: int = Field(20, ge=1, le=100)
    offset: int = Field(0, ge=0)


class Caption(BaseModel):
    """The texts of the form. An empty field of a browser has its default."""

    title: str = Field("", max_length=100)
    stars: int | None = Field(None, ge=1, le=5)


class Photo(Caption):
    """A stored photo."""

    id: str
    name: str
    size: int
    owner: str


class Album(Service):
    """Stores photos in a folder."""

    settings: AlbumSettings

    def __init__(self, settings: AlbumSettings | None = None) -> None:
        super().__init__(settings)
        self.photos: list[Photo] = []

    @get("/")
    async def page(self) -> web.Response:
        """Show the form."""
        return web.Response(text=PAGE, content_type="text/html")

    @get("/photos")
    async def list_photos(self, paging: Annotated[Paging, Query()]) -> Sequence[Photo]:
        """List the photos, the oldest first."""
        return self.photos[paging.offset :][: paging.limit]

    @post("/photos", max_body="20MB", timeout=120, max_parts=20)
    async def upload(
        self,
        caption: Annotated[Caption, Form()],
        photo: UploadFile,
        more: list[UploadFile] = [],  # noqa: B006 - it is not changed
        owner: Annotated[str, Cookie()] = "nobody",
    ) -> tuple[int, list[Photo]]:
        """Store PNG photos."""
        files = [photo, *more]
        for file in files:
            if await file.read(len(PNG)) != PNG:
                raise Problem(422, "A file is no PNG: its first bytes are others.")
        stored = [await self._store(file, caption, owner) for file in files]
        self.photos += stored
        return 201, stored

    async def _store(self, file: UploadFile, caption: Caption, owner: str) -> Photo:
        # The name that the client sent is only shown. It could be a path, or a stored photo's name.
        key = uuid4().hex
        await file.save(self.settings.folder / f"{key}.png")
        texts = caption.model_dump()
        return Photo(**texts, id=key, name=file.filename, size=file.size, owner=owner)
