"""Settings of the HTTP server: its address, its proxies, its limits, and headers of responses."""

from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from gizmopy.config.duration import Duration, PositiveDuration
from gizmopy.config.hosts import HostNames
from gizmopy.config.marks import Shown
from gizmopy.config.sections.base import (
    Count,
    HeaderValue,
    Port,
    PositiveInt,
    SectionBase,
    Text,
    setting,
)
from gizmopy.config.validation import CommaList, comma_list, validation_error


def _network(value: object) -> object:
    """Return the network that a text names; any other value is left for pydantic to reject."""
    if not isinstance(value, str):
        return value
    try:
        return ip_network(value)
    except ValueError as error:
        remedy = "write networks like 10.0.0.0/8, with commas between"
        raise validation_error(str(error), remedy) from None


def _hsts(text: str) -> str:
    """Validate a value of Strict-Transport-Security (RFC 6797 section 6.1): max-age, and flags.

    A browser ignores the header without an error if the value is malformed.
    """
    parts = [part.strip().lower() for part in text.split(";")]
    ages = [part.removeprefix("max-age=") for part in parts if part.startswith("max-age=")]
    flags = [part for part in parts if part in ("includesubdomains", "preload")]
    has_age = len(ages) == 1 and ages[0].isdecimal() and len(ages[0]) <= 10
    if text and not (has_age and 1 + len(set(flags)) == len(parts)):
        raise validation_error(
            "is not a valid value of Strict-Transport-Security",
            "write max-age=31536000, or max-age=31536000; includeSubDomains",
        )
    return text


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(comma_list)]


class AddressSettings(SectionBase):
    """The address of the main port."""

    http_addr: Text = setting(
        "HTTP_ADDR",
        "127.0.0.1",
        "Address to listen on. 0.0.0.0: every IPv4 address; ::: all; localhost: the loopback "
        "addresses of IPv4 and IPv6; unix:/path: a Unix socket.",
    )
    http_port: Port = setting(
        "HTTP_PORT", 8080, "Port to listen on. 0: any free port.", or_from="PORT"
    )


class ProxySettings(SectionBase):
    """The proxies in front of the main port."""

    trusted_proxies: Networks = setting(
        "GIZMO_TRUSTED_PROXIES",
        (),
        "Networks of the proxies whose X-Forwarded-For, X-Forwarded-Proto, "
        "X-Forwarded-Prefix, X-Real-IP and PROXY headers are used. Empty: none.",
    )
    proxy_protocol: bool = setting(
        "GIZMO_PROXY_PROTOCOL",
        False,
        "Require a PROXY header, version 1 or 2, at the start of each connection to the main port.",
    )


class LimitSettings(SectionBase):
    """How much a client may send, and how long it may take."""

    max_header_bytes: PositiveInt = setting(
        "GIZMO_MAX_HEADER_BYTES",
        64 * 1024,
        "Maximum size of a request's line and headers together, in bytes.",
    )
    max_body_bytes: PositiveInt = setting(
        "GIZMO_MAX_BODY_BYTES",
        1024 * 1024,
        "Maximum size of a request's body after decompression, in bytes.",
    )
    max_concurrent_requests: Count = setting(
        "GIZMO_MAX_CONCURRENT_REQUESTS",
        0,
        "Maximum number of requests at a time. Further requests get 503. 0: no limit.",
    )
    max_connections: Annotated[int, Field(ge=1)] | None = setting(
        "GIZMO_MAX_CONNECTIONS",
        None,
        "Maximum number of open connections to the main port. Unset: three quarters of the limit "
        "of file descriptors.",
    )
    max_requests_per_connection: Count = setting(
        "GIZMO_MAX_REQUESTS_PER_CONNECTION",
        0,
        "Number of requests, within 10 %, after which a connection is closed. 0: no limit.",
    )
    max_connection_age: Duration = setting(
        "GIZMO_MAX_CONNECTION_AGE",
        timedelta(0),
        "Age, within 10 %, at which a connection is closed after its next response. 0s: no limit.",
    )
    read_timeout: PositiveDuration = setting(
        "GIZMO_READ_TIMEOUT",
        timedelta(seconds=10),
        "Maximum time for a client to send a request's headers, and again for its body.",
    )
    handler_timeout: Duration = setting(
        "GIZMO_HANDLER_TIMEOUT",
        timedelta(0),
        "Maximum time for an endpoint to start its response, else 504. 0s: no limit.",
    )
    write_timeout: PositiveDuration = setting(
        "GIZMO_WRITE_TIMEOUT",
        timedelta(seconds=10),
        "Maximum time in which a client reads no byte of its response before its connection is "
        "closed.",
    )
    min_send_rate: Count = setting(
        "GIZMO_MIN_SEND_RATE",
        2048,
        "Minimum rate at which a client must read its response, in bytes per second. 0: any rate.",
    )
    idle_timeout: PositiveDuration = setting(
        "GIZMO_IDLE_TIMEOUT",
        timedelta(seconds=120),
        "Maximum time for a connection to stay open between requests.",
    )


class ResponseSettings(SectionBase):
    """Which browsers may call the service, and headers of its responses."""

    cors_origins: Annotated[CommaList, Shown] = setting(
        "GIZMO_CORS_ORIGINS",
        (),
        "Origins whose pages may call the service: https://a.example, https://*.b.example, or *. "
        "Empty: the origins in the service's CORS middleware, if it has one.",
    )
    allowed_hosts: Annotated[HostNames, Shown] = setting(
        "GIZMO_ALLOWED_HOSTS",
        (),
        "Host names that requests may have: a.example, *.b.example. Empty: every name.",
    )
    hsts: Annotated[HeaderValue, AfterValidator(_hsts)] = setting(
        "GIZMO_HSTS",
        "",
        "Strict-Transport-Security header of responses over TLS, such as max-age=31536000. "
        "Empty: no header.",
    )
    json_content_type: HeaderValue = setting(
        "GIZMO_JSON_CONTENT_TYPE", "application/json", "Content-Type header of JSON responses."
    )
