"""An opinionated toolkit for HTTP and pub/sub daemons: one process, nothing dropped."""

__version__ = "0.1.0"
