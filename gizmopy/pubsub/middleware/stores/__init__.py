"""Where idempotency keeps its marks."""
