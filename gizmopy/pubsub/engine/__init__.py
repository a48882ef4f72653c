"""How messages are handled and published: the parts of Subscriber and Publisher."""
