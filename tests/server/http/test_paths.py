"""The path values that a handler gets, sent over a socket: clients would normalize the path."""

from urllib.parse import unquote

import pytest

import pubsubtest
from gizmopy import Service, get
from tests.server.support import talk

BOTH_LOOPS = True


class Files(Service):
    @get("/files/{path:.*}")
    async def file(self, path: str) -> str:
        return path

    @get("/any/{path:.*}", unsafe_path=True)
    async def any(self, path: str) -> str:
        return path

    def endpoints(self):  # type: ignore[no-untyped-def]
        return {"/table/{name}": {"GET": self.file_of_table}}

    async def file_of_table(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    "path",
    [
        "/files/../../etc/passwd",
        "/files/%2e%2e/%2E./etc/passwd",
        "/files/a/..%2F..%2Fetc",
        "/files/..%5c..%5cetc",
        "/files//etc/passwd",
        "/files/secret.txt%00.png",
        "/table/..",
        "/table/%2e%2e%2fetc",
        "http://x/files/../etc",
    ],
)
async def test_a_path_that_leads_out_of_a_folder_is_a_bad_request(path: str) -> None:
    """The handler is not called, and the connection stays open."""
    async with pubsubtest.serve(Files) as files, talk(files.url) as client:
        client.ask("GET", path)
        answer = await client.answer()
        assert answer.status == 400
        assert "invalid value for" in answer.problem["detail"]
        client.ask("GET", "/files/a..b/.c")
        assert (await client.answer()).body == b'"a..b/.c"'


async def test_a_route_can_accept_any_path() -> None:
    """With ``unsafe_path`` a handler gets the value as it was sent."""
    async with pubsubtest.serve(Files) as files, talk(files.url) as client:
        client.ask("GET", "/any/../%2e/%00//")
        assert (await client.answer()).body == rb'".././\u0000//"'


@pytest.mark.parametrize("path", ["/%6detrics", "/live%7a", "/%64ocs", "/ready%7A"])
async def test_a_built_in_endpoint_has_one_spelling(path: str) -> None:
    """A proxy that refuses ``/metrics`` compares text; the service's own routes are decoded."""
    async with pubsubtest.serve(Files) as files, talk(files.url) as client:
        client.ask("GET", path)
        assert (await client.answer()).status == 404
        client.ask("GET", unquote(path))
        assert (await client.answer()).status == 200
        client.ask("GET", "/%66iles/a")
        assert (await client.answer()).body == b'"a"'
