"""What a secure cluster asks of its clients: users, passwords, certificates, tokens."""

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

PROTOCOLS = ("SASL_PLAINTEXT", "SSL", "SASL_SSL")
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", *SCRAM, "OAUTHBEARER")

USER = "alice"
PASSWORD = "alice-secret"

# With OAUTHBEARER a broker needs a token of its own, and its default one has a subject.
_MODULE = "org.apache.kafka.common.security.{} required {};"
_LOGIN = {
    "PLAIN": _MODULE.format("plain.PlainLoginModule", f'user_{USER}="{PASSWORD}"'),
    "SCRAM-SHA-256": _MODULE.format("scram.ScramLoginModule", ""),
    "SCRAM-SHA-512": _MODULE.format("scram.ScramLoginModule", ""),
    "OAUTHBEARER": _MODULE.format(
        "oauthbearer.OAuthBearerLoginModule", 'unsecuredLoginStringClaim_sub="broker"'
    ),
}


def write_certificates(folder: Path) -> None:
    """Write a CA's certificate, the broker's in one file with its key, and those of a client."""
    authority = trustme.CA()
    broker = authority.issue_cert("127.0.0.1", "localhost")
    client = authority.issue_cert(f"{USER}@example.org", common_name=USER)
    folder.mkdir(parents=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "broker.pem").write_bytes(_pkcs8(broker) + _chain(broker))
    (folder / "client.key").write_bytes(_pkcs8(client))
    (folder / "client.pem").write_bytes(_chain(client))


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    """Return the private key in the one form that Kafka reads."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def properties(certificates: Path) -> dict[str, str]:
    """Return the settings of a broker that listens with TLS and SASL, too."""
    plain = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"}
    protocols = plain | {protocol: protocol for protocol in PROTOCOLS}
    return {
        "listener.security.protocol.map": ",".join(map(":".join, protocols.items())),
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates / "ca.pem"),
        "listener.name.ssl.ssl.client.auth": "requested",
        **{
            f"listener.name.{protocol}.{mechanism.lower()}.sasl.jaas.config": _LOGIN[mechanism]
            for protocol in ("sasl_plaintext", "sasl_ssl")
            for mechanism in MECHANISMS
        },
    }


def scram_options() -> list[str]:
    """Return the options of ``kafka-storage format`` that make the user known to SCRAM."""
    user = f"[name={USER},password={PASSWORD}]"
    return [f"--add-scram={mechanism}={user}" for mechanism in SCRAM]


def unsecured_token(user: str = USER, *, lifetime: float = 3600.0) -> str:
    """Return an unsigned token for OAUTHBEARER, valid for so many seconds from now."""
    now = time.time()
    claims = {"sub": user, "iat": now, "exp": now + lifetime}
    return f"{_part({'alg': 'none'})}.{_part(claims)}."


def _part(document: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
