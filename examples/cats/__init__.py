"""The example daemon: HTTP in, message out, message handled."""
