"""The service of examples/3-both under a name that can be imported: ``tests.cats:Cats``."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from gizmopy import Service

FILE = Path(__file__).parents[1] / "examples" / "3-both" / "cats.py"


def _load() -> type[Service]:
    # The folder's name is not an identifier, so that no import statement finds the module.
    spec = spec_from_file_location("cats", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["cats"] = module  # annotations of its methods are evaluated there
    spec.loader.exec_module(module)
    service: type[Service] = module.Cats
    return service


Cats = _load()
