"""Find the service that a command names as ``module:Service``."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder

from gizmopy.errors import StartError
from gizmopy.server import Service


def find_service(target: str) -> type[Service]:
    """Return the service class that ``target`` names, looking in the working directory first.

    If it is there, the directory is on the path of imports from then on, else not.
    Raises StartError where there is none, with what to write instead. An error inside the module
    itself is raised as it is, with its traceback: it is the module's to mend.
    """
    module_name, _, class_name = target.partition(":")
    if not (module_name and class_name) or module_name.startswith("."):
        raise StartError(f"{target!r} names no service; write it as module:Service")
    if "" not in sys.path and _is_here(module_name.partition(".")[0]):
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


def _is_here(package: str) -> bool:
    """Return whether a package or module is in the working directory, and would be found there.

    Nothing is imported for that: with the directory on the path, all that an installed service
    imports would be looked for there first.
    """
    here = PathFinder.find_spec(package, [""])
    if here is None or here.loader is not None:
        return here is not None
    elsewhere = PathFinder.find_spec(package)  # a folder of this name counts only without another
    return elsewhere is None or elsewhere.loader is None
