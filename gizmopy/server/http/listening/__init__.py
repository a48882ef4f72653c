"""The listening socket and the connections that it accepts."""
