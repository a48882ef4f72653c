"""The ``gizmopy`` command: run a service, and ask what it is made of."""

from gizmopy.cli.main import main

__all__ = ["main"]
