"""Compare a secret in constant time."""

from __future__ import annotations

import hashlib
import hmac

from pydantic import SecretStr


def same_secret(sent: str, secret: SecretStr | str) -> bool:
    """Return whether ``sent`` is ``secret``, in a time that tells nothing about ``secret``.

    The time of ``==`` depends on the number of leading characters that are right. Returns False if
    ``secret`` is empty, so that a setting that is not set opens nothing.
    """
    expected = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    # compare_digest accepts only ASCII texts, and its time depends on the length: compare hashes.
    return hmac.compare_digest(_digest(sent), _digest(expected)) and bool(expected)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
