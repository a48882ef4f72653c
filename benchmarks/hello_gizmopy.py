"""The daemon that ``benchmarks.start`` starts: gizmopy run benchmarks.hello_gizmopy:Hello."""

from gizmopy import Service, get


class Hello(Service):
    """Say hello."""

    @get("/hello")
    async def hello(self) -> dict[str, str]:
        """Answer a small JSON object."""
        return {"hello": "world"}
