"""Test what is built on gizmopy: the real daemon in process, and doubles. No pytest needed."""

from pubsubtest.clock import Clock
from pubsubtest.faults import Faults, FaultyDriver, Rates
from pubsubtest.publisher import Recorded, RecordingPublisher
from pubsubtest.serve import Served, serve
from pubsubtest.subscriber import FakeSubscriber, Outcome, incoming

__all__ = [
    "Clock",
    "FakeSubscriber",
    "Faults",
    "FaultyDriver",
    "Outcome",
    "Rates",
    "Recorded",
    "RecordingPublisher",
    "Served",
    "incoming",
    "serve",
]
