"""A shop in several modules: orders, customers, and the service that joins them."""
