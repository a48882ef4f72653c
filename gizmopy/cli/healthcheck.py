"""``gizmopy healthcheck``: ask a running daemon how it is. For images that have no curl."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

PROBES = {"liveness": "/livez", "readiness": "/readyz"}


def main(argv: Sequence[str]) -> int:
    """Return 0 where the daemon answers 200, else 1, saying why on standard error."""
    parser = argparse.ArgumentParser(prog="gizmopy healthcheck", description=__doc__)
    parser.add_argument("url", nargs="?", default=_default_url(), help="default: %(default)s")
    parser.add_argument("--probe", choices=PROBES, default="readiness")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds; default: %(default)s")
    chosen = parser.parse_args(argv)
    host, port, path = _parse(chosen.url)
    if chosen.timeout <= 0:
        parser.error(f"--timeout {chosen.timeout:g}: give seconds above 0")
    if not host:
        parser.error(f"{chosen.url!r} is no address of a daemon; write it as http://host:port")
    try:
        status, text = _get(host, port, path or PROBES[chosen.probe], chosen.timeout)
    except (OSError, HTTPException) as error:
        print(f"{chosen.url}: {error}", file=sys.stderr)
        return 1
    print(text.strip(), file=sys.stdout if status == 200 else sys.stderr)
    return 0 if status == 200 else 1


def _parse(text: str) -> tuple[str, int, str]:
    """Return the host, port and path of a URL; no host where it is none of a daemon."""
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port or 80
    except ValueError:
        return "", 0, ""
    return host if url.scheme == "http" else "", port, url.path.rstrip("/")


def _default_url() -> str:
    """Return where this container's daemon listens, by the same environment that it reads."""
    host = os.environ.get("HTTP_ADDR") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{os.environ.get('HTTP_PORT') or os.environ.get('PORT') or '8080'}"


def _get(host: str, port: int, path: str, timeout: float) -> tuple[int, str]:
    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"User-Agent": "gizmopy-healthcheck"})
        response = connection.getresponse()
        return response.status, response.read(4096).decode("utf-8", "replace")
    finally:
        connection.close()
