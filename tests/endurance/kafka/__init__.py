"""Prove the life of daemons on a real Kafka; see __main__."""
