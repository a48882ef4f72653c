"""Ask a service for the objects that it mounts, and refuse those that could not work whole.

Nothing that a mounted object declares may be ignored in silence: a lifespan that is never entered,
settings that are never loaded, CORS that never sees a preflight request.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gizmopy.declaration import undeclared_functions
from gizmopy.errors import DeclarationError, source_of
from gizmopy.server.endpoints import Endpoints
from gizmopy.server.service import Service
from gizmopy.web import CORS

logger = logging.getLogger(__name__)


_METHODS = ("publish", "publish_many", "mounts", "lifespan")


def mounted_on(service: Service) -> tuple[Endpoints, ...]:
    """Return the objects that ``service.mounts()`` returns, which this calls once.

    Raises DeclarationError if one of them is not an object of a subclass of Endpoints, is there
    twice, or declares something that only a service can have.
    """
    _check_methods(service)
    _check_attributes(service)
    _check_mounts_of_bases(type(service))
    returned: object = service.mounts()
    if inspect.iscoroutine(returned):
        returned.close()
        raise DeclarationError(service.mounts, "is async; write: def mounts(self)")
    if isinstance(returned, str) or not isinstance(returned, Iterable):
        reason = f"must return a list of Endpoints, not {returned!r}"
        raise DeclarationError(service.mounts, reason)
    mounts: list[Endpoints] = []
    for mounted in returned:
        _check_kind(service, mounted)
        if any(mounted is other for other in mounts):
            name = type(mounted).__name__
            raise DeclarationError(service.mounts, f"returns the same {name} object twice")
        _check_members(mounted)
        _check_methods(mounted)
        _check_attributes(mounted)
        _check_cors(mounted)
        mounts.append(mounted)
    return tuple(mounts)


def _check_mounts_of_bases(kind: type[Service]) -> None:
    """Raise DeclarationError if the mounts of a base are hidden by those of an unrelated base."""
    (nearest, own), *others = [
        (base, vars(base)["mounts"]) for base in kind.__mro__ if "mounts" in vars(base)
    ]
    uses_super = "__class__" in getattr(getattr(own, "__code__", None), "co_freevars", ())
    for base, hidden in others:
        if base not in nearest.__mro__ and not uses_super:
            reason = (
                f"hides mounts() of {base.__name__}, an unrelated base of {kind.__name__}: "
                f"{source_of(hidden)}; define mounts() in {kind.__name__}, and return both"
            )
            raise DeclarationError(own, reason)


def _check_kind(service: Service, mounted: object) -> None:
    if isinstance(mounted, type) and issubclass(mounted, Endpoints):
        name = mounted.__name__
        reason = f"returns the class {name}; return an object of it: {name}(...)"
    elif isinstance(mounted, Service):
        reason = (
            f"returns a Service, {type(mounted).__name__}; a service is run, not mounted: "
            "derive the class from Endpoints"
        )
    elif not isinstance(mounted, Endpoints):
        reason = f"returns {mounted!r}, which is not an object of a subclass of Endpoints"
    else:
        return
    raise DeclarationError(service.mounts, reason)


def _check_members(mounted: Endpoints) -> None:
    """Raise DeclarationError if the object declares something that only a service can have."""
    kind = type(mounted)
    for name, remedy in (
        ("lifespan", "open the resource in the lifespan of the service"),
        ("mounts", "mount the objects on the service"),
    ):
        if (member := getattr(kind, name, None)) is not None:
            reason = f"is not called, because {kind.__name__} is mounted; {remedy}"
            raise DeclarationError(member, reason)
    annotated = any("settings" in inspect.get_annotations(base) for base in kind.__mro__)
    if annotated and not hasattr(mounted, "settings"):
        reason = "annotates settings, which only a service loads; take them in __init__"
        raise DeclarationError(kind, reason)


def _check_attributes(owner: Endpoints) -> None:
    """Raise DeclarationError if an attribute that the class may set has a value of a wrong type."""
    # ``name`` of a mounted object is a matter of its own: a method, or any value.
    for name in ("prefix", "name") if isinstance(owner, Service) else ("prefix",):
        text: object = getattr(owner, name, "")
        if not isinstance(text, str):
            raise _wrong(owner, name, f"is {text!r}; write a text")
    for name in ("middleware", "message_middleware"):
        value: object = getattr(owner, name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _wrong(owner, name, f"is {value!r}; write a tuple: ({name},)")
        for each in value:
            if not callable(each):
                raise _wrong(owner, name, f"has {each!r}, which is not a function; remove it")
            if reason := _fault_of_middleware(each):
                raise _wrong(owner, name, f"has {source_of(each)}, which {reason}")
    tags: object = owner.tags
    if isinstance(tags, str):  # it would be a tag for each letter
        raise _wrong(owner, "tags", f"is the text {tags!r}; write ({tags!r},)")
    if not (isinstance(tags, Sequence) and all(isinstance(tag, str) for tag in tags)):
        raise _wrong(owner, "tags", f"is {tags!r}; write a tuple of names")


def _check_methods(owner: Endpoints) -> None:
    """Raise DeclarationError if an attribute hides a method that the daemon or the object calls."""
    for name in _METHODS:
        method: object = getattr(owner, name, None)
        if not callable(method) and hasattr(owner, name):
            remedy = "write publishes = {...}" if name == "publish" else f"write def {name}(self)"
            raise _wrong(owner, name, f"is {method!r}, which hides the method; {remedy}")


def _fault_of_middleware(middleware: Callable[..., Any]) -> str:
    """Return why ``middleware`` cannot be called with one handler; empty if it can."""
    if inspect.iscoroutinefunction(middleware):
        return "is async; write a function without async, which takes a handler and returns one"
    try:
        inspect.signature(middleware).bind(None)
    except TypeError as error:
        return f"does not take one handler ({error}); write def wrap(handler), which returns one"
    except ValueError:  # a callable of C, without a signature
        return ""
    return ""


def _wrong(owner: Endpoints, name: str, reason: str) -> DeclarationError:
    """Return the error for an attribute, with the place of the class that sets it."""
    kind = type(owner)
    place = kind if name in vars(owner) else next(b for b in kind.__mro__ if name in vars(b))
    return DeclarationError(place, f"{name} {reason}", field=name)


def _check_cors(mounted: Endpoints) -> None:
    # A middleware does not see preflight requests. The request handler answers them with the one
    # CORS of the whole service.
    if any(isinstance(each, CORS) for each in mounted.middleware):
        reason = "has CORS in it; CORS applies to a whole service: put it there"
        raise _wrong(mounted, "middleware", reason)


def warn_of_undeclared(owners: Sequence[Endpoints]) -> None:
    """Log a warning for each decorated function beside the classes of ``owners``.

    Not an error: such a function may be meant for a test, or for a class that is made later.
    """
    for function in undeclared_functions(owners, _DECORATORS):
        decorator = next(name for mark, name in _DECORATORS.items() if hasattr(function, mark))
        kinds = [kind for owner in owners for kind in type(owner).__mro__]
        near = next(kind for kind in kinds if kind.__module__ == function.__module__)
        logger.warning(
            "%s has @%s, but it is in no class, so it is not served; make it a method of %s",
            *(source_of(function), decorator, near.__name__),
        )


_DECORATORS = {
    "__gizmo_routes__": "get or another method",
    "__gizmo_subscriptions__": "subscribe",
    "__gizmo_health_check__": "health_check",
    "__gizmo_job__": "background or @every",
}
