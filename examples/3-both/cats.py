"""Store cats over HTTP, publish each one, and handle the messages.

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
    """The body of a request."""

    name: str = Field(min_length=1, max_length=100)


class Cat(BaseModel):
    """A stored cat, and the body of a message."""

    id: int
    name: str


class Stats(BaseModel):
    """How many cats were stored, published and handled."""

    stored: int
    published: int
    handled: int


class Cats(Service):
    """Stores cats in memory, and publishes them."""

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
        """Count the cats."""
        return Stats(stored=len(self.cats), published=self.published, handled=self.handled)

    @get("/cats/{id}")
    async def get_cat(self, id: int) -> Cat:
        """Return a cat."""
        if id not in self.cats:
            raise Problem(404, f"There is no cat {id}.")
        return self.cats[id]

    @put("/cats/{id}")
    async def put_cat(self, id: int, new: NewCat) -> Cat:
        """Store a cat, and publish it."""
        cat = self.cats[id] = Cat(id=id, name=new.name)
        await self.publish("cats", cat, key=str(id))
        self.published += 1
        return cat

    @subscribe("cats", concurrency=16, order="key")
    async def on_cat(self, cat: Cat, message: Message) -> None:
        """Count a message."""
        self.handled += 1


if __name__ == "__main__":
    Cats.run()
