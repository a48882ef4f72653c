"""Neither logs nor errors show a password or a token of Kafka."""

from __future__ import annotations

import logging
import traceback

import pytest

from gizmopy.errors import PubSubError
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security import (
    PASSWORD,
    USER,
)
from tests.pubsub.brokers.kafka.security_support import (
    ALICE,
    TOKEN,
    WRONG,
    a_topic,
    consume,
    publish,
    token_login,
    url,
    valid,
)

SECRETS: dict[str, tuple[str, dict[str, str], str]] = {
    "PLAIN": (ALICE, {}, PASSWORD),
    "SCRAM": (ALICE, {"sasl_mechanism": "scram-sha-256"}, PASSWORD),
    "a token": ("", token_login(valid), TOKEN[:60]),
    "a wrong password (PLAIN)": (f"{USER}:{WRONG}", {}, WRONG),
    "a wrong password (SCRAM)": (f"{USER}:{WRONG}", {"sasl_mechanism": "scram-sha-256"}, WRONG),
}


@pytest.mark.parametrize(("login", "given", "secret"), SECRETS.values(), ids=SECRETS)
async def test_no_secret_is_shown(
    secure_kafka: Cluster,
    caplog: pytest.LogCaptureFixture,
    login: str,
    given: dict[str, str],
    secret: str,
) -> None:
    """No log record of any library at any level, no error and no repr has a secret."""
    caplog.set_level(logging.DEBUG)
    way = url(secure_kafka, "SASL_PLAINTEXT", login, **given)
    driver = drivers.open_driver(way)
    shown = [repr(each) for each in (driver, vars(driver), driver.sender("cats"))]
    async with a_topic(secure_kafka) as topic:
        for doing in (publish, consume):
            try:
                await doing(way, topic)
            except PubSubError as error:
                shown += [repr(error), *traceback.format_exception(error)]
    assert "SaslHandShakeRequest" in caplog.text
    assert secret not in caplog.text
    assert secret not in "".join(shown)
