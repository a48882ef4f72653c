"""The users, passwords, certificates and tokens of a secure cluster."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

PROTOCOLS = {
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SSL": "SSL",
    "SASL_SSL": "SASL_SSL",
    "CERTIFICATE": "SSL",
    "STRICT": "SASL_PLAINTEXT",
}
"""The security protocol of each listener.

``CERTIFICATE`` requires a certificate of its clients. ``STRICT`` does not offer all mechanisms, and
closes a connection that has not logged in again after 2 seconds.
"""
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", *SCRAM, "OAUTHBEARER")
STRICT = ("SCRAM-SHA-512", "OAUTHBEARER")

USER = "alice"
PASSWORD = "alice-secret"
OTHER = "bob"
"""A user for PLAIN that is not a super user, so that ACLs apply."""
OTHER_PASSWORD = "bob-secret"

# With OAUTHBEARER the broker needs its own token, whose default has no subject.
_MODULE = "org.apache.kafka.common.security.{} required {};"
_LOGIN = {
    "PLAIN": _MODULE.format(
        "plain.PlainLoginModule",
        f'user_{USER}="{PASSWORD}" user_{OTHER}="{OTHER_PASSWORD}"',
    ),
    "SCRAM-SHA-256": _MODULE.format("scram.ScramLoginModule", ""),
    "SCRAM-SHA-512": _MODULE.format("scram.ScramLoginModule", ""),
    "OAUTHBEARER": _MODULE.format(
        "oauthbearer.OAuthBearerLoginModule", 'unsecuredLoginStringClaim_sub="broker"'
    ),
}


def write_certificates(folder: Path) -> None:
    """Write the certificate of a CA, of the broker (one file with its key) and of a client."""
    authority = trustme.CA()
    broker = authority.issue_cert(
        "127.0.0.1"
    )  # a client that connects to localhost has to refuse it
    client = authority.issue_cert(f"{USER}@example.org", common_name=USER)
    folder.mkdir(parents=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "broker.pem").write_bytes(_pkcs8(broker) + _chain(broker))
    (folder / "client.key").write_bytes(_pkcs8(client))
    (folder / "client.pem").write_bytes(_chain(client))


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    """Return the private key in the only format that Kafka reads."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def properties(certificates: Path) -> dict[str, str]:
    """Return the settings of a broker that also listens with TLS and SASL."""
    protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"} | PROTOCOLS
    return {
        "listener.security.protocol.map": ",".join(map(":".join, protocols.items())),
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates / "ca.pem"),
        "listener.name.ssl.ssl.client.auth": "requested",
        "listener.name.certificate.ssl.client.auth": "required",
        "listener.name.strict.sasl.enabled.mechanisms": ",".join(STRICT),
        # Without an ACL every user has access. The brokers (ANONYMOUS) and one user need none.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": f"User:ANONYMOUS;User:{USER}",
        **{
            f"listener.name.{protocol}.{mechanism.lower()}.sasl.jaas.config": _LOGIN[mechanism]
            for protocol in ("sasl_plaintext", "sasl_ssl", "strict")
            for mechanism in MECHANISMS
        },
        **{
            f"listener.name.strict.{mechanism.lower()}.connections.max.reauth.ms": "2000"
            for mechanism in STRICT
        },
    }


def scram_options() -> list[str]:
    """Return the options of ``kafka-storage format`` that create the user for SCRAM."""
    user = f"[name={USER},password={PASSWORD}]"
    return [f"--add-scram={mechanism}={user}" for mechanism in SCRAM]


def unsecured_token(user: str = USER, *, lifetime: float = 3600.0) -> str:
    """Return an unsigned token for OAUTHBEARER, valid for ``lifetime`` seconds from now."""
    now = int(time.time())  # the broker rounds, and refuses a token from the future
    claims = {"sub": user, "iat": now, "exp": now + lifetime}
    return f"{_part({'alg': 'none'})}.{_part(claims)}."


def _part(document: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
