"""Ask a Health what the probes ask it."""

from gizmopy.server.health.checks import Health


async def problems(health: Health) -> list[str]:
    """Return why the daemon is not ready; an empty list where it is."""
    return health.reasons(await health.results())


async def report(health: Health) -> list[tuple[str, str]]:
    """Return every check's name with ``ok`` or how it fails."""
    results = await health.results()
    return [
        (each.name, f"{each.name} {each.failure}" if each.failure else "ok") for each in results
    ]
