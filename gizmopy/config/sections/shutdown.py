"""Settings of the shutdown, which together must fit the grace period of the platform."""

from datetime import timedelta

from gizmopy.config.duration import Duration
from gizmopy.config.sections.base import SectionBase, setting


class ShutdownSettings(SectionBase):
    """How long each phase of the shutdown may take."""

    shutdown_timeout: Duration = setting(
        "GIZMO_SHUTDOWN_TIMEOUT",
        timedelta(seconds=18),
        "Maximum time for running requests, messages and background work to finish at shutdown.",
    )
    drain_delay: Duration | None = setting(
        "GIZMO_DRAIN_DELAY",
        None,
        "Time at shutdown in which new connections are still accepted while readiness fails. "
        "Unset: 5s on Kubernetes, else 0s.",
    )
    termination_grace: Duration = setting(
        "GIZMO_TERMINATION_GRACE",
        timedelta(seconds=30),
        "Time between the platform's SIGTERM and SIGKILL. A warning is logged if the shutdown may "
        "take longer.",
    )
