"""Old public names: importable until 0.3, with a warning that names the new one."""

from __future__ import annotations

import pytest

from gizmopy import Service, Settings, SimpleServer, errors
from gizmopy._deprecated import renamed, renamed_method
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import Channels
from gizmopy.server.service import settings_class


def test_an_old_name_gives_the_new_object_with_a_warning() -> None:
    """The warning names the old name, the release that removes it, and the new name."""
    get = renamed("gizmopy.old", {"Problem_": "gizmopy.errors:GizmoError"})
    with pytest.warns(
        DeprecationWarning, match=r"gizmopy\.old\.Problem_.*0\.3: use gizmopy\.errors\.GizmoError"
    ):
        assert get("Problem_") is errors.GizmoError


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that never existed raises what a module without aliases raises."""
    get = renamed("gizmopy.old", {})
    with pytest.raises(AttributeError, match=r"module 'gizmopy\.old' has no attribute 'nothing'"):
        get("nothing")


def test_an_old_method_calls_the_new_function_with_a_warning() -> None:
    """The warning names the old method, the release that removes it, and the remedy."""

    class Cats:
        count = renamed_method("Cats.count", "use len()", lambda self, more: more + 1)

    with pytest.warns(DeprecationWarning, match=r"Cats\.count .*0\.3: use len\(\)"):
        assert Cats().count(2) == 3


class CatsSettings(Settings):
    greeting: str = "miaow"


def test_the_old_methods_of_a_service_work() -> None:
    """A service has its name, its settings class and its server by the old methods too."""

    class Cats(Service):
        settings: CatsSettings

    cats, metrics = Cats(), Metrics()
    with pytest.warns(DeprecationWarning, match=r"Service\.service_name .*set the class attribute"):
        assert cats.service_name() == "cats"
    with pytest.warns(DeprecationWarning, match=r"Service\.settings_class .*annotate"):
        assert Cats.settings_class() is CatsSettings
    channels = Channels("memory://", service="cats", metrics=metrics)
    with pytest.warns(DeprecationWarning, match=r"Service\.attach .*a server attaches itself"):
        cats.attach(channels, metrics)
    assert cats.metrics is metrics


def test_an_override_of_an_old_method_still_counts() -> None:
    """The warning names its class."""

    class Cats(Service):
        def service_name(self) -> str:
            return f"my-{type(self).__name__.lower()}"

        @classmethod
        def settings_class(cls) -> type[Settings]:
            return CatsSettings

    with pytest.warns(DeprecationWarning, match=r"Cats\.service_name is not called from"):
        assert SimpleServer(Cats(Settings())).name == "my-cats"
    with pytest.warns(DeprecationWarning, match=r"Cats\.settings_class is not called from"):
        assert settings_class(Cats) is CatsSettings
