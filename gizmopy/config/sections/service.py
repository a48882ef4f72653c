"""Settings of the service itself: its name, its version and the event loop that runs it."""

from typing import Literal

from gizmopy.config.sections.base import SectionBase, Text, setting


class ServiceSettings(SectionBase):
    """How the service names itself."""

    service_name: Text = setting(
        "SERVICE_NAME",
        "",
        "Name of the service in logs, metrics and subscriptions. Empty: the class's name.",
    )
    service_version: Text = setting(
        "SERVICE_VERSION", "", "Version of the service in health checks, metrics and /openapi.json."
    )


class EventLoopSettings(SectionBase):
    """Which event loop runs the service."""

    loop: Literal["auto", "asyncio", "uvloop"] = setting(
        "GIZMO_LOOP", "auto", "Event loop. auto: uvloop if it is installed, else asyncio."
    )
