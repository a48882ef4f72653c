"""Test services built on gizmopy: the real daemon in the test's process, and test doubles.

It works with any test framework.
"""

from pubsubtest.clock import Clock
from pubsubtest.faults import Faults, Rates
from pubsubtest.faulty_driver import FaultyDriver
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
