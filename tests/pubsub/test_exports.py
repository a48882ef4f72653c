"""The public names of gizmopy.pubsub: where they are found, and when their modules are loaded."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import gizmopy.pubsub


@pytest.mark.parametrize("name", gizmopy.pubsub.__all__)
def test_every_exported_name_can_be_imported(name: str) -> None:
    """``__all__`` names only what the package has, the lazy names included."""
    assert getattr(gizmopy.pubsub, name) is not None
    assert name in dir(gizmopy.pubsub)


def test_an_unknown_name_raises_attribute_error() -> None:
    """The lazy lookup reports a name that does not exist as Python does."""
    with pytest.raises(AttributeError, match=r"gizmopy\.pubsub.*no attribute 'Publisherr'"):
        gizmopy.pubsub.Publisherr  # noqa: B018


def test_importing_the_package_loads_no_broker_library() -> None:
    """Neither the import nor the names that are not lazy load redis, aiokafka or a store."""
    code = (
        "import sys, gizmopy.pubsub; gizmopy.pubsub.provision; print(*sorted(sys.modules.keys() "
        "& {'redis', 'aiokafka', 'gizmopy.pubsub.cloudevents', 'gizmopy.pubsub.brokers.kafka'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("gizmopy.pubsub.drivers", "provision", "gizmopy.pubsub"),
        ("gizmopy.pubsub.drivers", "open_driver", "gizmopy.pubsub"),
        ("gizmopy.pubsub.drivers", "has_provision", "gizmopy.pubsub.registry"),
        ("gizmopy.pubsub.memory", "MemoryDriver", "gizmopy.pubsub.brokers.memory"),
        ("gizmopy.pubsub.middleware.redis_store", "RedisStore", "gizmopy.pubsub"),
    ],
)
def test_an_old_path_resolves_with_a_warning(old: str, name: str, new: str) -> None:
    """A name that moved is found at its old path until 0.3; the warning says where it is now."""
    with pytest.warns(DeprecationWarning, match=f"use {new}.{name}"):
        value = getattr(import_module(old), name)
    assert value is getattr(import_module(new), name)
