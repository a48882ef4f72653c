"""Settings of TLS on the main port."""

from typing import Self

from pydantic import model_validator

from gizmopy.config.sections.base import SectionBase, Text, setting
from gizmopy.config.validation import validation_error


class TLSSettings(SectionBase):
    """The certificate of the daemon, and the authorities of its clients."""

    tls_cert: Text = setting(
        "TLS_CERT",
        "",
        "File of the certificate chain, in PEM. HTTPS is served if TLS_CERT and TLS_KEY are set.",
    )
    tls_key: Text = setting("TLS_KEY", "", "File of the certificate's private key, in PEM.")
    tls_client_ca: Text = setting(
        "TLS_CLIENT_CA",
        "",
        "File of certificate authorities, in PEM. If set, clients of the main port must present a "
        "certificate that one of them signed.",
    )

    @model_validator(mode="after")
    def _require_complete_tls(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            given, other = ("TLS_CERT", "TLS_KEY") if self.tls_cert else ("TLS_KEY", "TLS_CERT")
            raise validation_error(f"{given} is set without {other}", "set both, or neither")
        if self.tls_client_ca and not self.tls_cert:
            reason = "TLS_CLIENT_CA is set without TLS_CERT and TLS_KEY"
            remedy = "set all three, or none: client certificates need TLS"
            raise validation_error(reason, remedy)
        return self
