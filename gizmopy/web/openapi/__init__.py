"""The OpenAPI document of a service, and the page that displays it."""
