"""Logins, certificates and tokens that Kafka refuses, and the errors that say so."""

from __future__ import annotations

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gizmopy.errors import PubSubError, UsageError
from gizmopy.pubsub import registry as drivers
from tests.pubsub.brokers.kafka.cluster import Cluster
from tests.pubsub.brokers.kafka.security import (
    USER,
)
from tests.pubsub.brokers.kafka.security_support import (
    ALICE,
    CA,
    WRONG,
    by,
    endless,
    expired,
    nonsense,
    not_async,
    nothing,
    refusal,
    sealed,
    url,
)

# Who is not let in, and never will be.

Refusal = tuple[str, str, dict[str, str], str]
"""A listener, who logs in, the parameters, and what is said."""

NEVER: dict[str, Refusal] = {
    "a wrong password (PLAIN)": (
        "SASL_PLAINTEXT",
        f"{USER}:{WRONG}",
        {},
        "refuses the login of 'alice' by PLAIN: .*Invalid username or password.*sasl_password",
    ),
    "a wrong password (SCRAM-SHA-256)": (
        "SASL_PLAINTEXT",
        f"{USER}:{WRONG}",
        {"sasl_mechanism": "scram-sha-256"},
        "refuses the login of 'alice' by SCRAM-SHA-256: .*invalid credentials.*sasl_password",
    ),
    "a wrong password (SCRAM-SHA-512, TLS)": (
        "SASL_SSL",
        f"{USER}:{WRONG}",
        {"sasl_mechanism": "scram-sha-512", **CA},
        "refuses the login of 'alice' by SCRAM-SHA-512: .*invalid credentials.*sasl_password",
    ),
    "an unknown user (PLAIN)": (
        "SASL_PLAINTEXT",
        f"mallory:{WRONG}",
        {},
        "refuses the login of 'mallory' by PLAIN: .*Invalid username or password.*sasl_username",
    ),
    "an unknown user (SCRAM-SHA-512)": (
        "SASL_PLAINTEXT",
        f"mallory:{WRONG}",
        {"sasl_mechanism": "scram-sha-512"},
        "refuses the login of 'mallory' by SCRAM-SHA-512: .*invalid credentials.*sasl_username",
    ),
    "an unknown mechanism": (
        "STRICT",
        ALICE,
        {"sasl_mechanism": "scram-sha-256"},
        "refuses the login of 'alice' by SCRAM-SHA-256: .*sasl_mechanism",
    ),
    "a login where nobody logs in": (
        "PLAINTEXT",
        ALICE,
        {"security_protocol": "sasl_plaintext"},
        "refuses the login of 'alice' by PLAIN: this port has no logins; .*protocol=plaintext",
    ),
    "a login where nobody logs in (TLS)": (
        "SSL",
        ALICE,
        {"security_protocol": "sasl_ssl", **CA},
        "refuses the login of 'alice' by PLAIN: this port has no logins; .*security_protocol=ssl",
    ),
    "a token that has expired": (
        "SASL_PLAINTEXT",
        "",
        by(expired),
        "refuses the login of this client by OAUTHBEARER: .*the token is not valid.*:expired",
    ),
    "a token that has expired (TLS)": (
        "SASL_SSL",
        "",
        by(expired) | CA,
        "refuses the login of this client by OAUTHBEARER: .*the token is not valid.*:expired",
    ),
    "a token that is none": (
        "SASL_PLAINTEXT",
        "",
        by(nonsense),
        "refuses the login of this client by OAUTHBEARER: .*the token is not valid.*:nonsense",
    ),
    "no token": (
        "SASL_PLAINTEXT",
        "",
        by(nothing),
        "sasl_token_provider=.*:nothing returned no token: TypeError: it returned NoneType",
    ),
    "a function that is not async": (
        "SASL_PLAINTEXT",
        "",
        by(not_async),
        "sasl_token_provider=.*:not_async returned no token: TypeError",
    ),
    "an authority that the system does not know": (
        "SSL",
        "",
        {},
        "TLS with .* fails: .*unable to get local issuer certificate.*tls_ca",
    ),
    "another authority": (
        "SASL_SSL",
        ALICE,
        {"tls_ca": "{ca}.other"},
        "TLS with .* fails: .*unable to get local issuer certificate.*tls_ca",
    ),
    "no certificate where one is demanded": (
        "CERTIFICATE",
        "",
        CA,
        "refuses TLS: .*bad certificate.*tls_cert",
    ),
    "a certificate of another authority": (
        "CERTIFICATE",
        "",
        CA | {"tls_cert": "{cert}.other", "tls_key": "{key}.other"},
        "refuses TLS: .*certificate unknown.*tls_cert",
    ),
    "no TLS where it is spoken": ("SSL", "", {"security_protocol": "plaintext"}, "speaks TLS"),
    "no TLS where it is spoken (SASL)": (
        "SASL_SSL",
        ALICE,
        {"security_protocol": "sasl_plaintext"},
        "speaks TLS",
    ),
}


@pytest.fixture(scope="session")
def another_authority(secure_kafka: Cluster) -> None:
    """Write another authority's certificates beside those that are good."""
    authority = trustme.CA()
    mallory = authority.issue_cert("mallory@example.org")
    authority.cert_pem.write_to_path(f"{secure_kafka.ca_file}.other")
    mallory.cert_chain_pems[0].write_to_path(f"{secure_kafka.client_cert}.other")
    mallory.private_key_pem.write_to_path(f"{secure_kafka.client_key}.other")


@pytest.mark.usefixtures("another_authority")
@pytest.mark.parametrize(("listener", "login", "given", "said"), NEVER.values(), ids=NEVER)
async def test_what_never_works_says_why(
    secure_kafka: Cluster, listener: str, login: str, given: dict[str, str], said: str
) -> None:
    """What is refused for good is not transient, and the error says what, and what to look at."""
    error = await refusal(url(secure_kafka, listener, login, **given))
    with pytest.raises(PubSubError, match=said):
        raise error
    assert not error.transient


async def test_a_host_that_is_not_in_the_certificate(secure_kafka: Cluster) -> None:
    """A broker that does not prove the name that it was called by is not spoken to."""
    way = url(secure_kafka, "SSL", **CA).replace("127.0.0.1", "localhost")
    error = await refusal(way)
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in str(error)
    assert not error.transient


# Who is not let in for now: the same may be said by a broker, or a vault, that is about to start.

PERHAPS: dict[str, Refusal] = {
    "TLS where it is not spoken": (
        "PLAINTEXT",
        "",
        {"security_protocol": "ssl", **CA},
        "no broker answers .*check that the port uses security_protocol=SSL",
    ),
    "TLS where it is not spoken (SASL)": (
        "SASL_PLAINTEXT",
        ALICE,
        {"security_protocol": "sasl_ssl", **CA},
        "no broker answers .*check that the port uses security_protocol=SASL_SSL",
    ),
    "no login where one is demanded": (
        "SASL_PLAINTEXT",
        "",
        {"security_protocol": "plaintext"},
        "no broker answers .*check that the port uses security_protocol=PLAINTEXT",
    ),
    "no login where one is demanded (TLS)": (
        "SASL_SSL",
        "",
        {"security_protocol": "ssl", **CA},
        "no broker answers .*check that the port uses security_protocol=SSL",
    ),
    "a function that raises": (
        "SASL_PLAINTEXT",
        "",
        by(sealed),
        "sasl_token_provider=.*:sealed returned no token: RuntimeError: the vault is sealed",
    ),
    "a function that does not return": (
        "SASL_PLAINTEXT",
        "",
        by(endless),
        "sasl_token_provider=.*:endless returned no token: TimeoutError",
    ),
}


@pytest.mark.parametrize(("listener", "login", "given", "said"), PERHAPS.values(), ids=PERHAPS)
async def test_what_may_pass_says_what_it_may_be(
    secure_kafka: Cluster, listener: str, login: str, given: dict[str, str], said: str
) -> None:
    """What may be an outage is tried again, and the error says what else it may be."""
    error = await refusal(url(secure_kafka, listener, login, **given))
    with pytest.raises(PubSubError, match=said):
        raise error
    assert error.transient


def test_a_key_with_a_password_is_refused(secure_kafka: Cluster) -> None:
    """Nobody is asked for the password of a key: a daemon would wait for it for ever."""
    key = load_pem_private_key(secure_kafka.client_key.read_bytes(), password=None)
    locked = secure_kafka.client_key.with_suffix(".locked")
    lock = BestAvailableEncryption(b"sesame")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    way = url(secure_kafka, "SSL", tls_ca="{ca}", tls_cert="{cert}", tls_key=str(locked))
    with pytest.raises(UsageError, match=r"TLS cannot use .*client\.locked"):
        drivers.open_driver(way)
