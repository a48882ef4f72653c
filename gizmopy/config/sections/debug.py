"""Settings of metrics, the admin port, /debug and the documentation of the API."""

from pydantic import SecretStr

from gizmopy.config.sections.base import Port, SectionBase, Text, UrlPath, setting


class DebugSettings(SectionBase):
    """The paths and the port for metrics, /debug and the documentation of the API."""

    metrics_path: UrlPath = setting("METRICS_PATH", "/metrics", "Path of the Prometheus metrics.")
    admin_port: Port | None = setting(
        "GIZMO_ADMIN_PORT",
        None,
        "Separate port for metrics and /debug. 0: any free port. Unset: the main port.",
    )
    admin_addr: Text = setting(
        "GIZMO_ADMIN_ADDR", "127.0.0.1", "Address that the admin port listens on."
    )
    debug: bool | None = setting(
        "GIZMO_DEBUG",
        None,
        "Serve /debug. Unset: only if GIZMO_DEBUG_TOKEN or ENABLE_PPROF is set.",
    )
    debug_token: SecretStr = setting(
        "GIZMO_DEBUG_TOKEN",
        SecretStr(""),
        "Token that /debug requires. Empty: a random token, which is logged at start; then /debug "
        "must be on a loopback address or a Unix socket.",
    )
    enable_pprof: bool = setting(
        "ENABLE_PPROF", False, "Serve profiles under /debug/pprof/. This turns /debug on."
    )
    openapi: bool = setting("GIZMO_OPENAPI", True, "Serve /openapi.json, /docs and /asyncapi.json.")
