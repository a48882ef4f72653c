"""Logins, certificates and tokens that Kafka refuses, and their errors."""

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
    connection_error,
    endless,
    expired,
    malformed,
    not_async,
    raising,
    returning_none,
    token_login,
    url,
)

# Permanent errors.

Case = tuple[str, str, dict[str, str], str]
"""A listener, a login, URL parameters, and a pattern of the error."""

PERMANENT: dict[str, Case] = {
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
    "a login at a listener without logins": (
        "PLAINTEXT",
        ALICE,
        {"security_protocol": "sasl_plaintext"},
        "refuses the login of 'alice' by PLAIN: this port has no logins; .*protocol=plaintext",
    ),
    "a login at a listener without logins (TLS)": (
        "SSL",
        ALICE,
        {"security_protocol": "sasl_ssl", **CA},
        "refuses the login of 'alice' by PLAIN: this port has no logins; .*security_protocol=ssl",
    ),
    "a token that has expired": (
        "SASL_PLAINTEXT",
        "",
        token_login(expired),
        "refuses the login of this client by OAUTHBEARER: .*the token is not valid.*:expired",
    ),
    "a token that has expired (TLS)": (
        "SASL_SSL",
        "",
        token_login(expired) | CA,
        "refuses the login of this client by OAUTHBEARER: .*the token is not valid.*:expired",
    ),
    "a malformed token": (
        "SASL_PLAINTEXT",
        "",
        token_login(malformed),
        "refuses the login of this client by OAUTHBEARER: .*the token is not valid.*:malformed",
    ),
    "no token": (
        "SASL_PLAINTEXT",
        "",
        token_login(returning_none),
        "sasl_token_provider=.*:returning_none returned no token: TypeError: it returned NoneType",
    ),
    "a function that is not async": (
        "SASL_PLAINTEXT",
        "",
        token_login(not_async),
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
    "no certificate, which is required": (
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
    "no TLS at a TLS listener": ("SSL", "", {"security_protocol": "plaintext"}, "speaks TLS"),
    "no TLS at a TLS listener (SASL)": (
        "SASL_SSL",
        ALICE,
        {"security_protocol": "sasl_plaintext"},
        "speaks TLS",
    ),
}


@pytest.fixture(scope="session")
def another_authority(secure_kafka: Cluster) -> None:
    """Write certificates of another authority beside the valid ones."""
    authority = trustme.CA()
    mallory = authority.issue_cert("mallory@example.org")
    authority.cert_pem.write_to_path(f"{secure_kafka.ca_file}.other")
    mallory.cert_chain_pems[0].write_to_path(f"{secure_kafka.client_cert}.other")
    mallory.private_key_pem.write_to_path(f"{secure_kafka.client_key}.other")


@pytest.mark.usefixtures("another_authority")
@pytest.mark.parametrize(
    ("listener", "login", "given", "expected"), PERMANENT.values(), ids=PERMANENT
)
async def test_a_permanent_refusal_has_a_reason(
    secure_kafka: Cluster, listener: str, login: str, given: dict[str, str], expected: str
) -> None:
    """The error is not transient, and names the reason and the settings to check."""
    error = await connection_error(url(secure_kafka, listener, login, **given))
    with pytest.raises(PubSubError, match=expected):
        raise error
    assert not error.transient


async def test_a_host_that_is_not_in_the_certificate(secure_kafka: Cluster) -> None:
    """A broker whose certificate does not have its host name is refused."""
    way = url(secure_kafka, "SSL", **CA).replace("127.0.0.1", "localhost")
    error = await connection_error(way)
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in str(error)
    assert not error.transient


# Transient errors: a broker or a token store that is starting may cause the same.

TRANSIENT: dict[str, Case] = {
    "TLS at a listener without TLS": (
        "PLAINTEXT",
        "",
        {"security_protocol": "ssl", **CA},
        "no broker answers .*check that the port uses security_protocol=SSL",
    ),
    "TLS at a listener without TLS (SASL)": (
        "SASL_PLAINTEXT",
        ALICE,
        {"security_protocol": "sasl_ssl", **CA},
        "no broker answers .*check that the port uses security_protocol=SASL_SSL",
    ),
    "no login, which is required": (
        "SASL_PLAINTEXT",
        "",
        {"security_protocol": "plaintext"},
        "no broker answers .*check that the port uses security_protocol=PLAINTEXT",
    ),
    "no login, which is required (TLS)": (
        "SASL_SSL",
        "",
        {"security_protocol": "ssl", **CA},
        "no broker answers .*check that the port uses security_protocol=SSL",
    ),
    "a function that raises": (
        "SASL_PLAINTEXT",
        "",
        token_login(raising),
        "sasl_token_provider=.*:raising returned no token: RuntimeError: the vault is raising",
    ),
    "a function that does not return": (
        "SASL_PLAINTEXT",
        "",
        token_login(endless),
        "sasl_token_provider=.*:endless returned no token: TimeoutError",
    ),
}


@pytest.mark.parametrize(
    ("listener", "login", "given", "expected"), TRANSIENT.values(), ids=TRANSIENT
)
async def test_a_possible_outage_has_a_reason(
    secure_kafka: Cluster, listener: str, login: str, given: dict[str, str], expected: str
) -> None:
    """The error is transient, and names another possible reason."""
    error = await connection_error(url(secure_kafka, listener, login, **given))
    with pytest.raises(PubSubError, match=expected):
        raise error
    assert error.transient


def test_a_key_with_a_password_is_refused(secure_kafka: Cluster) -> None:
    """Opening the driver fails, instead of waiting for a password on the terminal."""
    key = load_pem_private_key(secure_kafka.client_key.read_bytes(), password=None)
    locked = secure_kafka.client_key.with_suffix(".locked")
    lock = BestAvailableEncryption(b"sesame")
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    way = url(secure_kafka, "SSL", tls_ca="{ca}", tls_cert="{cert}", tls_key=str(locked))
    with pytest.raises(UsageError, match=r"TLS cannot use .*client\.locked"):
        drivers.open_driver(way)
