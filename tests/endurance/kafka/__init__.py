"""Prove on a real Kafka that daemons lose and repeat nothing; see __main__."""
