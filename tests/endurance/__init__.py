"""Proofs that take long: ``make endurance`` runs them."""
