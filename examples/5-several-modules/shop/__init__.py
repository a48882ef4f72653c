"""A shop in several modules: customers, orders, stock, their store, and the service."""
