"""Log the variables that look like settings and are none: misspelt names, and Gizmo's old ones.

The environment has the names of other programs too. So only a name that belongs to gizmopy or to a
section of the service is logged, unless the source belongs to the service.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Set

from gizmopy.config.dotenv_file import DotenvFile
from gizmopy.config.schema import Section, Setting
from gizmopy.config.structure import find_path
from gizmopy.untrusted.text import cut, escape

logger = logging.getLogger(__name__)

_METRICS = "metrics are scraped by Prometheus"
_METRIC_NAMES = "the names of metrics are the same for every daemon"
GIZMO_NAMES = {
    "GIZMO_GOMAXPROCS": "Python has no GOMAXPROCS",
    "GIZMO_ROUTER_TYPE": "there is one router",
    "GIZMO_SERVER_GOMAXPROCS": "Python has no GOMAXPROCS",
    "GIZMO_SERVER_TYPE": "there is one server",
    "GIZMO_SKIP_OBSERVE": "nothing depends on the platform",
    "GRAPHITE_HOST": _METRICS,
    "KAFKA_MAX_RETRY": "a publish is retried until KAFKA_DELIVERY_TIMEOUT",
    "KAFKA_PARTITION": "the consumer group assigns the partitions",
    "METRICS_ADDR": _METRICS,
    "METRICS_INTERVAL": _METRICS,
    "METRICS_NAMESPACE": _METRIC_NAMES,
    "METRICS_NETWORK": _METRICS,
    "METRICS_PREFIX": _METRIC_NAMES,
    "METRICS_SUBSYSTEM": _METRIC_NAMES,
    "METRICS_TYPE": _METRICS,
    "RPC_ACCESS_LOG": "this version has no gRPC",
    "RPC_PORT": "this version has no gRPC",
}
"""The variables of Gizmo without an effect, and why; docs/migration/gizmo.md lists all of them."""

# Kubernetes sets seven variables for each service of the namespace: GIZMO_CATS_SERVICE_HOST for one
# that is named gizmo-cats (https://kubernetes.io/docs/concepts/services-networking/service/).
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(?:_|$)|_PORT_[0-9]+_(?:TCP|UDP|SCTP)")
_LINK_VALUES = ("tcp://", "udp://", "sctp://")
_SIMILAR = 0.85


def log_unknown_names(
    schema: Section,
    declared: Set[str],
    values: Mapping[str, str],
    source: str,
    *,
    is_shared: bool,
) -> None:
    """Log a warning for each name in ``values`` that looks like a setting and is none.

    ``declared`` has the names of the settings, in capitals. In a source that is not ``is_shared``
    with other programs, every name that is similar to a setting's looks like one.
    """
    place = f"the {source}" if source == "environment" else escape(source)
    tables = [setting.table.prefix for setting in schema.settings() if setting.table is not None]
    for name, value in values.items():
        capitals = name.upper()
        if not _is_setting(schema, capitals, declared, tables):
            reason = _reason(schema, capitals, declared, is_shared=is_shared)
            if reason and not _is_link(capitals, value):
                logger.warning("%s in %s has no effect: %s", escape(cut(name)), place, reason)
        elif capitals in declared and values.get(capitals, value) not in ("", value):
            logger.warning("%s in %s has no effect, because %s is set", name, place, capitals)


def log_lines(file: DotenvFile, source: str, used: Set[str]) -> None:
    """Log a warning for each line of a ``.env`` file that is not used."""
    source = escape(source)
    for number in file.foreign:
        logger.warning("%s:%d is ignored: it is not NAME=value", source, number)
    for name, ignored, number in file.repeated:
        logger.warning("%s:%d is ignored: line %d sets %s again", source, ignored, number, name)
    for name, line in file.unusable.items():
        if name not in used:
            logger.warning("%s:%d is ignored: its value %s", source, line.number, line.reason)


def _is_setting(schema: Section, name: str, declared: Set[str], tables: list[str]) -> bool:
    if name in declared or name.removesuffix("_FILE") in declared:
        return not name.startswith(("GIZMO_CONFIG_", "GIZMO_SECRETS_DIR_"))
    if any(name.startswith(prefix) and name != prefix for prefix in tables):
        return True
    return any(_has_part(setting, path) for setting, _, path in _structures_above(schema, name))


def _structures_above(schema: Section, name: str) -> Iterator[tuple[Setting, str, str]]:
    """Yield each structured setting that ``name`` begins with, its name, and the rest of it."""
    for setting in schema.settings():
        if not setting.structured or setting.table is not None:
            continue
        for own in setting.environment:
            prefix = f"{own}{setting.delimiter}".upper()
            if name.startswith(prefix):
                yield setting, own, name[len(prefix) :]


def _has_part(setting: Setting, path: str) -> bool:
    names = [path, path.removesuffix("_FILE")]
    paths = (name.split(setting.delimiter.upper()) for name in names)
    return any(find_path(setting.annotation, path) is not None for path in paths)


def _is_link(name: str, value: str) -> bool:
    return value.startswith(_LINK_VALUES) or _SERVICE_LINK.search(name) is not None


def _reason(schema: Section, name: str, declared: Set[str], *, is_shared: bool) -> str:
    """Return why a name has no effect, and the remedy; empty if it is another program's."""
    if (reason := GIZMO_NAMES.get(name)) is not None:
        return f"it is a setting of Gizmo that gizmopy does not have, because {reason}; unset it"
    for setting, own, _ in _structures_above(schema, name):
        if "__" in setting.delimiter or not is_shared:
            return f"{own} has no such part; unset it"
    ours = name.startswith("GIZMO_") or any(map(name.startswith, _own_prefixes(schema)))
    if nearest := _nearest(name, declared, 0.6 if ours else _SIMILAR):
        is_ours = ours or not is_shared or name.startswith("KAFKA_")
        return f"it is not a setting; did you mean {nearest}?" if is_ours else ""
    return "it is not a setting; unset it" if ours else ""


def _own_prefixes(schema: Section) -> Iterator[str]:
    """Yield the start of every name that can only be meant for the service."""
    if prefix := schema.model.model_config.get("env_prefix"):
        yield str(prefix).upper()
    for section in schema.sections():
        yield from (each.upper() for each in section.environment if "__" in each)


def _nearest(name: str, declared: Set[str], cutoff: float) -> str:
    from difflib import get_close_matches  # imported here to keep cold starts short

    if (bare := name.removeprefix("GIZMO_")) in declared:
        return bare
    return next(iter(get_close_matches(name, sorted(declared), n=1, cutoff=cutoff)), "")
