"""Old path of :mod:`gizmopy.pubsub.registry`, deprecated until gizmopy 0.3."""

from gizmopy._deprecated import renamed

__getattr__ = renamed(
    __name__,
    {
        "GROUP": "gizmopy.pubsub.registry:GROUP",
        "PROVISION_GROUP": "gizmopy.pubsub.registry:PROVISION_GROUP",
        "has_provision": "gizmopy.pubsub.registry:has_provision",
        "open_driver": "gizmopy.pubsub:open_driver",
        "provision": "gizmopy.pubsub:provision",
        "redact": "gizmopy.config.urls:redacted_url",
    },
)
