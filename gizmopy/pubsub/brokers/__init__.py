"""One module or package for each URL scheme, found by the registry."""
