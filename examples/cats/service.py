"""Keep cats over HTTP, tell the world about each, and listen to what is told.

make run
curl -X PUT -H 'Content-Type: application/json' -d '{"name": "Tom"}' localhost:8080/svc/cats/1
curl localhost:8080/svc/cats/stats
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel, Field

from gizmopy import Message, Problem, Service, Settings, get, put, subscribe

logger = logging.getLogger(__name__)


class NewCat(BaseModel):
    """What a client sends."""

    name: str = Field(min_length=1, max_length=100)


class Cat(BaseModel):
    """A cat that is kept."""

    id: int
    name: str


class Stats(BaseModel):
    """How many cats are kept, were told about, and were heard of."""

    stored: int
    published: int
    handled: int


class Cats(Service):
    """Keeps cats in memory, and tells the world about them."""

    prefix = "/svc"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.cats: dict[int, Cat] = {}
        self.published = 0
        self.handled = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Log the counts at the end, after the last request and the last message."""
        yield
        logger.info("the cats go to sleep", extra={"stats": (await self.stats()).model_dump()})

    @get("/cats/stats")
    async def stats(self) -> Stats:
        """Say how many cats there are."""
        return Stats(stored=len(self.cats), published=self.published, handled=self.handled)

    @get("/cats/{id}")
    async def get_cat(self, id: int) -> Cat:
        """Give a cat."""
        if id not in self.cats:
            raise Problem(404, f"There is no cat {id}.")
        return self.cats[id]

    @put("/cats/{id}")
    async def put_cat(self, id: int, new: NewCat) -> Cat:
        """Keep a cat, and publish it."""
        cat = self.cats[id] = Cat(id=id, name=new.name)
        await self.publish("cats", cat, key=str(id))
        self.published += 1
        return cat

    @subscribe("cats", concurrency=16, order="key")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Hear of a cat."""
        self.handled += 1


if __name__ == "__main__":
    Cats.run()
