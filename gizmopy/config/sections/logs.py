"""Settings of the log and the access log."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from gizmopy.config.sections.base import SectionBase, Text, setting
from gizmopy.config.validation import validation_error

_GIZMO_LEVELS = {"warn": "warning", "fatal": "critical", "panic": "critical", "trace": "debug"}


def _level(value: object) -> object:
    if not isinstance(value, str):
        return value
    level = value.strip().lower()
    return _GIZMO_LEVELS.get(level, level)


def _output(value: object) -> object:
    """Return ``stdout`` for ``-``, and the words for outputs in lower case; else ``value``."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    return _OUTPUTS.get(word, value)


def _no_file_named_off(value: str) -> str:
    if value == "off":
        reason = "is not an output of the log"
        raise validation_error(reason, "set APP_LOG_LEVEL=critical, or HTTP_ACCESS_LOG=off")
    return value


_OUTPUTS = {"-": "stdout", "stdout": "stdout", "stderr": "stderr", "off": "off"}
Output = Annotated[Text, BeforeValidator(_output)]
"""``stdout`` or ``-``, ``stderr``, ``off``, or the path of a file."""

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)
]
"""A level of Python's, in any case, or one of Gizmo's."""


class LogSettings(SectionBase):
    """The level, output and format of the log and the access log."""

    log_level: LogLevel = setting("APP_LOG_LEVEL", "info", "Least severe level that is logged.")
    log_json: bool | None = setting(
        "APP_LOG_JSON_FMT", None, "Log lines as JSON. Unset: only if the output is not a terminal."
    )
    log_fields: Literal["plain", "gcp"] = setting(
        "GIZMO_LOG_FIELDS",
        "plain",
        "Names of the fields of a JSON line: plain, or gcp for the names of Google Cloud Logging.",
    )
    log_file: Annotated[Output, AfterValidator(_no_file_named_off)] = setting(
        "APP_LOG",
        "",
        "Output of the log: stderr, stdout (or -), or the path of a file. Empty: stderr.",
    )
    http_access_log: Output = setting(
        "HTTP_ACCESS_LOG",
        "",
        "Output of the access log: off, stdout (or -), stderr or the path of a file. Empty: the "
        "same as the log.",
    )
    access_log_format: Literal["own", "combined"] = setting(
        "GIZMO_ACCESS_LOG_FORMAT",
        "own",
        "Format of the access log: own, or combined for Apache's combined log format.",
    )
    log_probes: bool = setting(
        "GIZMO_LOG_PROBES",
        False,
        "Include requests for health and metrics in the access log.",
    )
