"""Settings: what a daemon may be told, by whom, and how it says that it was told wrong."""

from gizmopy.config.duration import Duration
from gizmopy.config.loading import Loaded, load
from gizmopy.config.marks import Shown
from gizmopy.config.settings import Settings

__all__ = ["Duration", "Loaded", "Settings", "Shown", "load"]
