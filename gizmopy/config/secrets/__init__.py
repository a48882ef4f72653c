"""Which settings are secrets, and how they are masked."""
