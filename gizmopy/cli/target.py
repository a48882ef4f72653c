"""Find the service that a command names as ``module:Service``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from gizmopy.errors import StartError
from gizmopy.server import Service


def find_service(target: str) -> type[Service]:
    """Return the service class that ``target`` names, looking in the working directory first.

    If it is there, the directory stays on the path of imports, else not.
    Raises StartError where there is none, with what to write instead. An error inside the module
    itself is raised as it is, with its traceback: it is the module's to mend.
    """
    module_name, _, class_name = target.partition(":")
    if not (module_name and class_name) or module_name.startswith("."):
        raise StartError(f"{target!r} names no service; write it as module:Service")
    here = "" in sys.path
    if not here:
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise StartError(
            f"there is no module {error.name!r} here or among the installed packages; "
            "run from the folder that holds it, or install it"
        ) from error
    if not here and not _is_here(module_name):
        sys.path.remove("")  # nothing else is imported from there: a setting may name code
    service = getattr(module, class_name, None)
    if not (isinstance(service, type) and issubclass(service, Service)):
        services = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Service) and value is not Service
        ]
        known = ", ".join(services) or "no service at all"
        raise StartError(f"{module_name} has no service {class_name!r}; it has: {known}")
    return service


def _is_here(module_name: str) -> bool:
    """Return whether a module that is imported, or the package that it is in, is in this folder."""
    top = sys.modules[module_name.partition(".")[0]]
    paths = [*getattr(top, "__path__", ())] or [getattr(top, "__file__", None) or ""]
    return any(Path(path).resolve().parent == Path.cwd() for path in paths if path)
