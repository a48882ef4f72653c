"""Health checks, and the endpoints that answer with them."""
