"""Test what is built on gizmopy: the real daemon in process, and doubles. No pytest needed."""

from pubsubtest.publisher import Recorded, RecordingPublisher
from pubsubtest.serve import Served, serve

__all__ = ["Recorded", "RecordingPublisher", "Served", "serve"]
