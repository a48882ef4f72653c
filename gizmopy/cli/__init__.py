"""The ``gizmopy`` command: run a service, and print its endpoints, settings and health."""

from gizmopy.cli.main import main

__all__ = ["main"]
