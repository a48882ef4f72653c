"""The HTTP server: requests are routed, run, measured, answered and logged."""
