"""Drivers and engines with one fault each, for the tests of the conformance suite."""

from tests.pubsubtest.mutants.catalogue import ENGINE_MUTANTS, MUTANTS, Mutant

__all__ = ["ENGINE_MUTANTS", "MUTANTS", "Mutant"]
