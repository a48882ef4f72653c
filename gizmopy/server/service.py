"""The class that users subclass: a daemon is declared by its methods."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn, TypeVar

from gizmopy._deprecated import override, renamed_method
from gizmopy.config import Settings
from gizmopy.declaration.type_variables import ContradictingArguments, values_in
from gizmopy.errors import DeclarationError, UsageError, source_of
from gizmopy.pubsub.codecs import encoder_for
from gizmopy.server.endpoints import Endpoints

_NAME_REMEDY = "set the class attribute name"
_SETTINGS_REMEDY = "annotate the class attribute settings"


def service_name(service: Service) -> str:
    """Return SERVICE_NAME, else ``Service.name``, else the name of the class, as ``my-cats``."""
    own = override(type(service), Service, "service_name", _NAME_REMEDY)
    return _own_name(service) if own is None else own(service)


def _own_name(service: Service) -> str:
    class_name = type(service).__name__
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name)
    return service.settings.service_name or service.name or words.lower()


def settings_class(kind: type[Service]) -> type[Settings]:
    """Return the settings class that ``kind``, or its nearest base, annotates.

    Raises DeclarationError if the annotation is not a subclass of Settings, or is a name that its
    module does not define.
    """
    own = override(kind, Service, "settings_class", _SETTINGS_REMEDY)
    return _annotated_class(kind) if own is None else own()


def _annotated_class(kind: type[Service]) -> type[Settings]:
    owner = next(base for base in kind.__mro__ if "settings" in inspect.get_annotations(base))
    for base in kind.__mro__[: kind.__mro__.index(owner)]:
        if isinstance(value := vars(base).get("settings"), (Settings, type)):
            name = (value if isinstance(value, type) else type(value)).__name__
            reason = f"settings has a value, which nothing reads; annotate it, settings: {name}"
            raise DeclarationError(base, reason)
    annotated = inspect.get_annotations(owner)["settings"]
    if isinstance(annotated, str):
        own = {each.__name__: each for each in getattr(owner, "__type_params__", ())}
        module: Any = sys.modules[owner.__module__]
        found = reduce(lambda node, key: getattr(node, key, None), annotated.split("."), module)
        annotated = own.get(annotated, annotated if found is None else found)
    if isinstance(annotated, TypeVar):
        annotated = _settings_argument(kind, owner, annotated)
    if not (isinstance(annotated, type) and issubclass(annotated, Settings)):
        reason = (
            f"settings is annotated with {annotated!r}; "
            "use a subclass of gizmopy.Settings that its module knows by that name"
        )
        raise DeclarationError(owner, reason)
    return annotated


def _settings_argument(kind: type[Service], owner: type, variable: TypeVar) -> Any:
    """Return the settings class that ``kind`` sets for a type variable of its base ``owner``."""
    try:
        value = values_in(kind, owner).get(variable, variable)
    except ContradictingArguments as error:
        raise DeclarationError(kind, f"settings: {error}") from error
    if isinstance(value, TypeVar):
        base, name = owner.__name__, kind.__name__ if kind is not owner else f"My{owner.__name__}"
        reason = f"settings is the type variable {variable.__name__} of {base}, which has no value"
        raise DeclarationError(kind, f"{reason}; write class {name}({base}[MySettings])")
    return value


def declared_channels(service: Endpoints, mounts: Iterable[Endpoints] = ()) -> dict[str, Any]:
    """Return the channels in ``publishes`` of all objects and their bases, with types or None.

    Raises DeclarationError if a name or a type cannot be used, or two objects differ in a type.
    """
    channels: dict[str, Any] = {}
    declared_by: dict[str, type] = {}
    for owner in (service, *mounts):
        kind = type(owner)
        if "publishes" in vars(owner):
            raise DeclarationError(kind, "sets publishes on an object; set it on the class")
        for channel, type_ in _channels_of(kind).items():
            other = declared_by.setdefault(channel, kind)
            if channels.setdefault(channel, type_) != type_:
                reason = (
                    f"publishes[{channel!r}] is {type_!r}, but {channels[channel]!r} in "
                    f"{source_of(other)}; declare the same type"
                )
                raise DeclarationError(kind, reason)
    return channels


def _channels_of(kind: type) -> dict[str, Any]:
    channels: dict[Any, Any] = {}
    for owner in map(vars, reversed(kind.__mro__)):
        declared = owner.get("publishes", ())
        if isinstance(declared, str) or not isinstance(declared, Mapping | Sequence):
            remedy = 'write {"channel": Type}, or ("channel",)'
            raise DeclarationError(kind, f"publishes={declared!r} is not a mapping; {remedy}")
        channels |= declared if isinstance(declared, Mapping) else dict.fromkeys(declared)
    for channel, type_ in channels.items():
        if not (isinstance(channel, str) and channel):
            raise DeclarationError(kind, f"publishes has {channel!r}, not the name of a channel")
        try:
            encoder_for(type_)
        except UsageError as error:
            raise DeclarationError(kind, f"publishes[{channel!r}]: {error}") from error
    return channels


class Service(Endpoints):
    """Declare a daemon: endpoints, subscriptions and health checks are its decorated methods.

    Subclass it and call ``run()``. A subclass may set:

    - ``name``: the service's name (default: the SERVICE_NAME setting, else the class's name in
      lower case with hyphens). Subscriptions are named after it.
    - ``prefix``: the start of every endpoint's path, such as ``/svc``.
    - ``tags``: the group of its own endpoints in the OpenAPI document (default: its name).
    - ``middleware``: functions that take a request handler and return one, outermost first.
    - ``message_middleware``: the same for message handlers, except those that take batches. If it
      needs ``settings``, set it in ``__init__``.
    - ``problems``: the problem of each exception, such as ``{OutOfStock: 409}``; see Endpoints.
    - ``security``: the checkers of which one has to accept each request (default: everybody may
      call). An object that it mounts, or an endpoint, may declare its own.
    - ``publishes``: the channels that the service publishes to, with the type of their values:
      ``{"cats": Cat, "audit": None}``, or names alone, ``("cats", "audit")``. They are checked and
      connected at the start. Base classes add theirs.
    - ``settings``: annotate it with a subclass of ``Settings`` to have that class loaded.
    - ``lifespan``: an async context manager around the daemon's working life.
    - ``mounts``: the ``Endpoints`` that hold more of its endpoints, handlers and health checks.

    ``prefix``, ``middleware`` and ``message_middleware`` apply to mounted objects as well.
    """

    name: ClassVar[str] = ""
    settings: Settings

    _not_running = "is not running"

    def __init__(self, settings: Settings | None = None) -> None:
        """Keep ``settings``; the default is the annotated class with its own defaults."""
        self.settings = settings_class(type(self))() if settings is None else settings

    def mounts(self) -> Iterable[Endpoints]:
        """Return the objects whose endpoints, handlers and health checks this service has, too.

        It is called once, after ``__init__``.
        """
        return ()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open resources, yield while the daemon works, and close them.

        It is entered before the first request or message, and left after the last one. Endpoints,
        handlers and health checks run in copies of its context: they see a ContextVar that it sets.
        """
        yield

    attach = renamed_method("Service.attach", "a server attaches itself", Endpoints._attach)
    service_name = renamed_method("Service.service_name", _NAME_REMEDY, _own_name)
    settings_class = classmethod(
        renamed_method("Service.settings_class", _SETTINGS_REMEDY, _annotated_class)
    )

    @classmethod
    def run(cls, argv: Sequence[str] | None = None) -> NoReturn:
        """Run this service until SIGTERM or SIGINT, then end the process.

        Settings come from the environment, files and ``argv`` (default: the command line). The exit
        code is 0 after a clean drain, 70 if the deadline forced it, 2 if settings or declarations
        are wrong, and 1 if the daemon could not start or failed.
        """
        from gizmopy.server.run import run  # it needs this module

        _refuse_run_at_import(cls, sys._getframe(1))
        raise SystemExit(run(cls, argv))


def _with_line(error: Exception) -> str:
    """Return the text of an error and the line of the service that caused it."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parents[1])
    own = [frame for frame in frames if not frame.filename.startswith(package)]
    return f"line {own[-1].lineno}: {error}" if own else str(error)


def _refuse_run_at_import(cls: type[Service], caller: FrameType) -> None:
    """Raise DeclarationError if a module that is imported calls ``run`` at its top level.

    The import would not end before the daemon does, and the flags of another command would be its.
    """
    name = caller.f_globals.get("__name__")
    if caller.f_code.co_name == "<module>" and name != "__main__" and name in sys.modules:
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        reason = f'{place} runs it on import; write if __name__ == "__main__": ahead of it'
        raise DeclarationError(cls, reason)


S = TypeVar("S", bound=Service)


def make_service(kind: type[S], settings: Settings) -> S:
    """Return a service of class ``kind`` with ``settings``.

    Raises DeclarationError if its ``__init__`` does not take the settings or does not keep them.
    """
    try:
        inspect.signature(kind).bind(settings)
    except TypeError as error:
        reason = "must take the settings: def __init__(self, settings: Settings | None = None)"
        raise DeclarationError(kind.__init__, reason) from error
    try:
        service = kind(settings)
    except UsageError as error:  # such as that of Service.metrics, which has its remedy
        raise DeclarationError(kind.__init__, _with_line(error)) from error
    except AttributeError as error:
        if error.name != "settings" or not isinstance(error.obj, kind):
            raise
        reason = "uses self.settings too early; call super().__init__(settings) first"
        raise DeclarationError(kind.__init__, reason) from error
    if not hasattr(service, "settings"):
        raise DeclarationError(kind.__init__, "must call super().__init__(settings)")
    return service
