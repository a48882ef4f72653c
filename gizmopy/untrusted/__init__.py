"""Check text and values from outside, and describe them without repeating them."""
