"""The stores of idempotency's marks."""
