"""Background work: methods that run for the life of a service, or again and again."""
