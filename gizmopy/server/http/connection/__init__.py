"""One HTTP connection: requests are read and responses are written."""
