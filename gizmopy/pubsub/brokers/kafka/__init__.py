"""``kafka://``: publish to, and consume from, Apache Kafka."""
