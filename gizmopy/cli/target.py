"""Find the service that a command names as ``module:Service``."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder

from gizmopy.errors import StartError
from gizmopy.server import Endpoints, Service


def find_service(target: str) -> type[Service]:
    """Return the service class that ``target`` names, from the working directory or installed.

    If the module is in the working directory, the directory is added to the import path. Raises
    StartError with the remedy if there is no such class. An error inside the module is raised
    unchanged, with its traceback.
    """
    module_name, _, class_name = target.partition(":")
    if not (module_name and class_name) or module_name.startswith("."):
        raise StartError(f"{target!r} does not name a service; write it as module:Service")
    if "" not in sys.path and _is_here(module_name.partition(".")[0]):
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise StartError(
            f"the module {error.name!r} is neither in the working directory nor installed; "
            "change to the directory that contains it, or install it"
        ) from error
    service = getattr(module, class_name, None)
    if not (isinstance(service, type) and issubclass(service, Service)):
        if isinstance(service, type) and issubclass(service, Endpoints):
            raise StartError(f"{class_name} is mounted, not run; name the service that mounts it")
        services = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Service) and value is not Service
        ]
        known = ", ".join(services) or "none"
        raise StartError(f"{module_name} has no service {class_name!r}; its services are: {known}")
    return service


def _is_here(package: str) -> bool:
    """Return whether an import with the working directory on the path finds ``package`` there.

    This is decided without an import. If the directory were on the path for an installed service,
    a file in it could replace any module that the service imports.
    """
    here = PathFinder.find_spec(package, [""])
    if here is None or here.loader is not None:
        return here is not None
    elsewhere = PathFinder.find_spec(
        package
    )  # a directory without __init__.py counts only if no other package has its name
    return elsewhere is None or elsewhere.loader is None
