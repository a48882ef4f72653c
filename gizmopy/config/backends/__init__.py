"""The settings of each broker and store."""
