"""What the process says about itself: logs, metrics, and the request or message it is about."""
