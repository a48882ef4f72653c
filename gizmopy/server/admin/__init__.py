"""The debug endpoints, and who may use them."""
