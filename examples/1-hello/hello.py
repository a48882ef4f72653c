"""Greet over HTTP.

gizmopy run hello:Hello --greeting hi
curl localhost:8080/hello/world
"""

from gizmopy import Service, Settings, get


class HelloSettings(Settings):
    """Add a greeting to the standard settings: GREETING=…, --greeting …"""

    greeting: str = "hello"


class Hello(Service):
    """Greets everyone by name."""

    settings: HelloSettings

    @get("/hello/{name}")
    async def hello(self, name: str, times: int = 1) -> dict[str, str]:
        """Greet by name, ``times`` times."""
        return {self.settings.greeting: " ".join([name] * times)}


if __name__ == "__main__":
    Hello.run()
