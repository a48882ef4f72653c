"""Old path of ``gizmopy.pubsub.RedisStore``, deprecated until gizmopy 0.3."""

from gizmopy._deprecated import renamed

__getattr__ = renamed(__name__, {"RedisStore": "gizmopy.pubsub:RedisStore"})
