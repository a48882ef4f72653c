"""Settings of a daemon: their declarations, their sources, and reports of them.

``settings`` has the standard settings, the sum of the sections in ``sections/``; ``backends/`` has
those of brokers. ``load`` reads all sources (``sources``, ``flags``) by the ``schema`` of a class,
and reports every problem at once. ``secrets/`` decides which values may be shown.
"""

from gizmopy.config.duration import Duration, DurationLike
from gizmopy.config.loading import Loaded, load
from gizmopy.config.marks import Shown
from gizmopy.config.settings import Settings

__all__ = ["Duration", "DurationLike", "Loaded", "Settings", "Shown", "load"]
