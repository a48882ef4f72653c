"""Settings of the health checks and probes."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator

from gizmopy.config.duration import Duration, PositiveDuration
from gizmopy.config.sections.base import SectionBase, UrlPath, setting

_GIZMO_HEALTH_CHECKS = {"": "simple", "esx": "lb"}


def _health_check(value: object) -> object:
    if not isinstance(value, str):
        return value
    kind = value.strip().lower()
    return _GIZMO_HEALTH_CHECKS.get(kind, kind)


HealthCheckType = Annotated[Literal["simple", "custom", "lb"], BeforeValidator(_health_check)]


class HealthSettings(SectionBase):
    """How the daemon checks its health, and how it answers probes."""

    health_check_path: UrlPath = setting(
        "GIZMO_HEALTH_CHECK_PATH", "/status.txt", "Path of the health check in Gizmo's format."
    )
    health_check_type: HealthCheckType = setting(
        "GIZMO_HEALTH_CHECK_TYPE",
        "simple",
        "simple: gizmopy answers the health check; custom: the service does; lb: like simple, and "
        "the shutdown waits until each load balancer has received a failing answer.",
    )
    health_interval: PositiveDuration = setting(
        "GIZMO_HEALTH_INTERVAL", timedelta(seconds=10), "Interval between runs of a health check."
    )
    liveness_stall: PositiveDuration = setting(
        "GIZMO_LIVENESS_STALL",
        timedelta(seconds=30),
        "Time for which the event loop may be blocked before the liveness probe fails.",
    )
    blocking_warning: Duration = setting(
        "GIZMO_BLOCKING_WARNING",
        timedelta(milliseconds=500),
        "Time for which a call may block the event loop before its stack is logged. 0: any time.",
    )
