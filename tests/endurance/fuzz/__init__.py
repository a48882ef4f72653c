"""Long proofs: `make endurance` runs them."""
