"""Proofs of the HTTP server and the shutdown: real processes, real signals and raw sockets."""
