"""Find the service that a command names as ``module:Service``."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from pydantic import PydanticUserError

from gizmopy.errors import StartError
from gizmopy.observe.places import frames_of_error, own_place
from gizmopy.server import Endpoints, Service

SERVICE = "module:Service"


def split_service(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the service that a command line names, and the other arguments.

    The service comes first. It is also found behind flags, unless the text looks different: then
    the first word counts as the service. The service is "" if there is no word.
    """
    words = list(argv)
    for place, word in enumerate(words):
        if place == 0 and not word.startswith("-"):
            break
        if _TARGET.fullmatch(word):
            break
    else:
        return "", words
    return words.pop(place), words


_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def find_service(target: str) -> type[Service]:
    """Return the service class that ``target`` names, from the working directory or installed.

    If the module is in the working directory, the directory is added to the import path. Raises
    StartError with the remedy if there is no such class. An error inside the module is raised
    unchanged, with its traceback.
    """
    module_name, _, class_name = target.partition(":")
    if remedy := _spelling_remedy(module_name, class_name):
        # A variable with its value, or a URL, may hold a secret.
        shown = "argument 1" if set("=@") & set(target) else repr(target)
        raise StartError(f"{shown} does not name a service; {remedy}")
    if "" not in sys.path and _is_here(module_name.partition(".")[0]):
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise StartError(
            f"the module {error.name!r} is neither in the working directory nor installed; "
            f"{_place_remedy(error.name)}"
        ) from error
    except SyntaxError as error:
        # Its text is not shown: the line may hold a secret.
        place = f"{error.filename}:{error.lineno}"
        raise StartError(f"{place}: Python cannot read the module: {error.msg}") from error
    except PydanticUserError as error:  # such as a field without an annotation
        raise StartError(_model_problem(error)) from error
    service = getattr(module, class_name, None)
    if not (isinstance(service, type) and issubclass(service, Service)):
        raise StartError(_class_problem(module, class_name, service))
    return service


def _model_problem(error: PydanticUserError) -> str:
    """Return the problem of a class that pydantic refuses, with its place."""
    frames = frames_of_error(error)
    found = own_place(frames)
    place = "" if found is None else f"{found.file}:{found.line}: "
    # pydantic writes a link to its documentation on a line of its own.
    return f"{place}{error.message.partition(chr(10))[0]}"


def _spelling_remedy(module: str, name: str) -> str:
    """Return how to write a target that cannot be one; empty if it can."""
    if module.startswith(".") and not module.startswith("./"):
        return f"write it as {SERVICE}"
    if "/" in module or module.endswith(".py"):
        path = Path(module if module.endswith(".py") else f"{module}.py")
        if path.is_absolute() or ".." in path.parts:
            return f"change to the directory of the file, and write {path.stem}:{name or 'Service'}"
        return f"write {'.'.join(path.with_suffix('').parts)}:{name or _class_in(path)}"
    if not name and "." in module and module.rpartition(".")[2][:1].isupper():
        return f"write {':'.join(module.rsplit('.', 1))}"
    if not (module and name):
        path = Path(f"{module.replace('.', '/')}.py")
        found = f", such as {module}:{_class_in(path)}" if module and path.is_file() else ""
        return f"write it as {SERVICE}{found}"
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        return f"write it as {SERVICE}, with names that Python can import"
    return ""


def _class_in(path: Path) -> str:
    """Return the name of the service in a file, which is not run; ``Service`` if none is found."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return "Service"
    for node in tree.body:
        bases = map(ast.unparse, node.bases) if isinstance(node, ast.ClassDef) else ()
        if any(base.endswith("Service") for base in bases):
            return str(getattr(node, "name", "Service"))
    return "Service"


def _place_remedy(name: str) -> str:
    part = name.partition(".")[0]
    for found in (*Path().glob(f"*/{part}.py"), *Path().glob(f"*/{part}/__init__.py")):
        return f"it is in {found.parts[0]}: change to that directory, or install it"
    return "change to the directory that contains it, or install it"


def _class_problem(module: ModuleType, name: str, found: object) -> str:
    """Return why a name in a module is not a service, and the services that it has."""
    if isinstance(found, type) and issubclass(found, Endpoints):
        return f"{name} is mounted, not run; name the service that mounts it"
    services = [
        own
        for own, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Service) and value is not Service
    ]
    known = ", ".join(services) or "none"
    if isinstance(found, Service):
        reason = f"{name!r} in {module.__name__} is an object; name its class"
    elif found is not None:
        kind = "class" if isinstance(found, type) else type(found).__name__
        reason = f"{name!r} in {module.__name__} is a {kind} that is not a service"
    else:
        reason = f"{module.__name__} has no service {name!r}"
    return f"{reason}; its services are: {known}"


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
