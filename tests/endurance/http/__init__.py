"""The proof under load: what a daemon must survive, as real processes against raw sockets."""
