"""The debug endpoints, and the token that guards them."""
