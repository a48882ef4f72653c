"""The parsers of text from outside, each with the texts that could make it slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from pydantic import TypeAdapter
from yarl import URL

from gizmopy.config import Duration
from gizmopy.config.backends.kafka import KafkaSettings, without_group
from gizmopy.config.dotenv_file import parse_dotenv
from gizmopy.config.secrets.masking import is_secret_name, mask_text
from gizmopy.config.secrets.redaction import ValueContext, redacted_value
from gizmopy.config.sections.http import Networks
from gizmopy.config.urls import redacted_url, scheme_and_hosts, validated_url
from gizmopy.config.validation import comma_list
from gizmopy.observe import logs
from gizmopy.observe.access import _escape, _quote
from gizmopy.observe.exposition_text import _escaped
from gizmopy.observe.trace import trace_context
from gizmopy.pubsub.brokers.memory import open_driver
from gizmopy.pubsub.cloudevents import CloudEvent, structured_data
from gizmopy.pubsub.codecs import codec_for
from gizmopy.pubsub.engine.dead_letter_topics import topic_of
from gizmopy.pubsub.event_binding import HTTP
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import restored
from gizmopy.server.health.probes import _accepts_json
from gizmopy.server.http.connection.proxy_protocol import read_header
from gizmopy.server.http.deadlines import callers_timeout
from gizmopy.server.http.handler import _path
from gizmopy.server.http.listening.sockets import is_loopback
from gizmopy.server.http.proxies import Proxies
from gizmopy.untrusted.text import cut, escape
from gizmopy.web import Request
from gizmopy.web.body import _check_content_type
from gizmopy.web.cookies import cookies_of
from gizmopy.web.forms import _urlencoded
from gizmopy.web.multipart import check_disposition
from gizmopy.web.multipart_form import FormShape, _names_of
from gizmopy.web.router import parse_template
from gizmopy.web.types import ISODate, Truthy
from tests.linear_time.hostile_texts import Hostile, Run, pumps
from tests.linear_time.patterns import CORS_OF_MANY, match_with


def header(name: str, read: Callable[[Request], object]) -> Run:
    """Return a reader of one header of a request."""
    return lambda text: read(REQUEST.clone(headers=CIMultiDict({name: text})))


def new_request() -> Request:
    """Return a request to be cloned with other headers or another target."""
    made: Any = make_mocked_request("POST", "/")
    parts = (made._message, made._payload, made.protocol, made.writer, made.task, made._loop)
    return Request(*parts).clone(remote="127.0.0.1")


REQUEST = new_request()
_SHAPE = FormShape(frozenset("a"), frozenset(), max_parts=100_000)


def message(*names: str, **fixed: str) -> Callable[[str], Message]:
    """Return a function that makes a message with the text in these attributes."""
    return lambda text: Message("t", b"", attributes={**fixed, **dict.fromkeys(names, text)})


def event(name: str) -> Run:
    """Return a reader of a CloudEvent that has the text in one attribute."""
    whole = {"ce-specversion": "1.0", "ce-type": "a", "ce-source": "/b", "ce-id": "c"}
    return lambda text: CloudEvent.from_attributes({**whole, name: text})


def structured(text: str) -> object:
    """Read a CloudEvent in structured mode."""
    return structured_data(text.encode(), "application/cloudevents+json")


def typed(annotation: Any) -> Run:
    """Return a reader of a value of this type in JSON, and in a query."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def read(text: str) -> object:
        with suppress(ValueError):
            adapter.validate_json(f'"{text}"')
        return adapter.validate_strings(text)

    return read


PROXIES = Proxies(TypeAdapter[Any](Networks).validate_python("127.0.0.0/8,::1/128"))
TIMESTAMP = "2026-01-01T00:00:00+00:00"
OBJECTS = codec_for(dict[str, Any])


def _read_names(text: str) -> object:
    """Read the names in the Content-Disposition of a part, as a form is read."""
    check_disposition(text)
    return _names_of(text)


PARSERS: Mapping[str, tuple[Run, Sequence[Hostile]]] = {
    "a duration": (typed(Duration), pumps("1111s", "1.1h", "1", "-1")),
    "X-Request-Timeout": (header("X-Request-Timeout", lambda r: callers_timeout(r.headers)), []),
    "grpc-timeout": (header("grpc-timeout", lambda r: callers_timeout(r.headers)), []),
    "a trace context": (
        lambda text: logs.trace_id(trace_context({"traceparent": text, "tracestate": text})),
        pumps("0", "-", "00-"),
    ),
    "the trace id in a log": (lambda text: logs.trace_id({"traceparent": text}), pumps("-", "0-")),
    "X-Forwarded-For": (
        lambda text: PROXIES.client_address("127.0.0.1", text.split(";")),
        pumps(",", "127.0.0.1,", "::1,", "[::1]:1,", "127.0.0.1;", ";", " ,"),
    ),
    "X-Forwarded-Proto": (
        header("X-Forwarded-Proto", lambda r: PROXIES.scheme(r)),
        pumps(",", "https,", " "),
    ),
    "a PROXY header": (
        lambda text: read_header(text.encode("latin-1", "replace")),
        [
            *pumps("x", " ", "\r", head="PROXY UNKNOWN ", tails=("", "\r\n")),
            *pumps("1.", "1 ", head="PROXY TCP4 ", tails=("", "\r\n")),
            *pumps("\0", "\xff", head="\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0"),
        ],
    ),
    "a peer's address": (lambda text: PROXIES.client_address(text, ()), pumps("::", "1.", "1:")),
    "Origin": (
        header("Origin", lambda r: CORS_OF_MANY._add_headers(r, CIMultiDict())),
        pumps("https://"),
    ),
    "a preflight": (
        lambda text: CORS_OF_MANY.preflight(
            REQUEST.clone(
                method="OPTIONS",
                headers=CIMultiDict(
                    {
                        "Origin": "http://localhost:8080",
                        "Access-Control-Request-Method": text,
                        "Access-Control-Request-Headers": text,
                    }
                ),
            ),
            ("GET",),
        ),
        pumps("a,", ","),
    ),
    "Vary": (
        lambda text: CORS_OF_MANY._add_headers(REQUEST, CIMultiDict({"Vary": text})),
        pumps(",", "a,", " ,"),
    ),
    "Content-Type": (
        header("Content-Type", _check_content_type),
        pumps(";", "a/", "+json", "; a="),
    ),
    "cookies": (header("Cookie", cookies_of), pumps("a=1;", ";", "=", 'a="\\073";', 'a="')),
    "the names of a part": (
        _read_names,
        [
            *pumps("\\", '\\"', '"', ";", head='form-data; name="', tails=("", '"')),
            *pumps("%c3%a4", "'", head="form-data; name=a; filename*=utf-8''"),
        ],
    ),
    "a form": (
        lambda text: _urlencoded(REQUEST, text.encode("utf-8", "replace"), _SHAPE),
        pumps("&", "a=1&", "%ff", "%c3%a4", "=", "+"),
    ),
    "charset": (
        header("Content-Type", lambda r: r.charset),
        pumps(";", "; charset=", '"', "; a=b"),
    ),
    "Accept of a probe": (header("Accept", _accepts_json), pumps(",", ";", ";,", " ,")),
    "Cookie": (
        header("Cookie", lambda r: r.cookies),
        pumps("a=b;", "a=b; ", ";", '="', "a=;", " "),
    ),
    "Forwarded": (
        header("Forwarded", lambda r: r.forwarded),
        pumps("for=a;", 'for="', "a=b,", "\\"),
    ),
    "a query": (
        lambda text: dict(REQUEST.clone(rel_url=f"/?{text}").query),
        pumps("a", "&", "a=b&", "%", "%2", "%25", ";", "=", "+"),
    ),
    "a target": (_path, pumps("/", "?", "#", "://", "a://", "@", "http://a", ":", "[")),
    "a path of the request": (lambda text: URL(f"/{text}", encoded=True).path, pumps("%2F", "../")),
    "routes, one variable": (match_with("/f/{name}", "/f/{name}/a", "/f/a/b"), pumps("a/", "%2F")),
    "routes, several variables in a segment": (
        match_with(
            "/f/{name}-{version}.{ext}",
            "/f/{a}-{b}-{c}-{d}/x",
            "/f/{a}{b}{c}{d}/y",
            "/f/-{a}--{b}---{c}/z",
        ),
        pumps(
            "-", ".", "-.", "a-", ".-", "a", "--", "%2D", tails=("", "!", "/x", "/y", "/z", "/-")
        ),
    ),
    "routes, the rest": (match_with("/f/{path:.*}"), pumps("/", "../", "%2F", "%2e", "a/")),
    "routes, many alike": (
        match_with(*(f"/f/{{a{n}:[a-z]{{{n}}}x*}}/{n}" for n in range(1, 20))),
        pumps("x", "ax", "a/", head="aaaaa"),
    ),
    "a template": (
        lambda text: parse_template(f"/{text}"),
        pumps("{a}", "/{a}", "{a:a}-", "{a:{1}}"),
    ),
    "a template of many names": (
        lambda text: parse_template("".join(f"/{{a{n}}}" for n in range(len(text) // 32))),
        pumps("a"),
    ),
    "a CloudEvent's time": (
        event("ce-time"),
        pumps("1", head="2018-04-05T17:31:00.", tails=("", "Z", "+01:00")),
    ),
    "a CloudEvent's subject": (event("ce-subject"), pumps("a", "\u00e9")),
    "a CloudEvent's content type": (event("content-type"), pumps("a/", "application/cloudevents")),
    "a CloudEvent's extension": (lambda text: event(f"ce-{text}")(text), pumps("a", "1")),
    "a CloudEvent in JSON": (
        structured,
        [
            *pumps(
                '"a":1,', " ", '"a', "\\u0000", "[", "9", '{"a":', head='{"data":', tails=("", "}")
            )
        ],
    ),
    "a CloudEvent's header": (
        lambda text: HTTP.from_wire({"ce-specversion": "1.0", "ce-a": text}),
        pumps("%41", "%", "\\", head='"', tails=("", '"')),
    ),
    "a day": (typed(ISODate), pumps("1", "2024-01-01")),
    "yes or no": (typed(Truthy), pumps("t", "true")),
    "a redriven message": (
        lambda text: restored(
            message("gizmo-dl-redriven", "gizmo-dl-source-topic", "a")(text), TIMESTAMP
        ),
        pumps("9", "\u0663", "1 "),
    ),
    "the repr of a message": (
        lambda text: repr(Message("t", b"", key=text)),
        pumps("'", '"', "\\"),
    ),
    "JSON": (
        lambda text: OBJECTS.decode(text.encode()),
        [
            *pumps("1", "1,", '"a",', "[]", "\\", " ", head="[", tails=("", "]")),
            *pumps('"a":1,', '"a":', '{"a":', "[", "9", "1e9", "\\u0000", head='{"a":'),
        ],
    ),
    "text": (lambda text: codec_for(str).decode(text.encode()), pumps("a", "\u00e9")),
    "a list of words": (comma_list, pumps(",", " ", "a,", " ,")),
    "networks": (typed(Networks), pumps("10.0.0.0/8,", ",", "::", "1.", "/")),
    "an address": (is_loopback, pumps("::", "1.", ":", "0", "%", "unix:")),
    "a broker's URL": (
        validated_url,
        pumps("://", "@", "a@", "?", "#", "[", "a:", head="kafka://"),
    ),
    "a broker's URL, its start": (scheme_and_hosts, pumps("@", "a:", "/", head="kafka://")),
    "a broker's URL, redacted": (redacted_url, pumps("@", "a:", "/", head="kafka://")),
    "a broker's URL without its group": (
        without_group,
        pumps("&a=b", "a=b;", "%25", "@", ":", head="kafka://a?", tails=("", "%")),
    ),
    "a broker's URL's topic": (topic_of, pumps("/", "%2F", "a/", head="kafka://a/")),
    "a URL of memory://": (open_driver, pumps("&lease=1", "9", "1", head="memory://?lease=1")),
    "kafka hosts": (
        lambda text: KafkaSettings.model_validate({"broker_hosts": text}),
        pumps("a,", "a:1,", "[::1],", "@", ":", "[", "a.", tails=("", "a", "!")),
    ),
    "a masked URL": (mask_text, pumps("://:", "://", "a:", ":", "://a:b@", tails=("", "@", "@!"))),
    "masked parameters": (mask_text, pumps("?a=b&", "key=", "token='", "a ", 'key="a', "&", " =")),
    "a masked key": (mask_text, pumps("-----BEGIN ", "-----END a-----", "-", "-----END ")),
    "a value that may be shown": (
        lambda text: redacted_value(text, str, ValueContext(path=("host",))),
        pumps("a,", "a:1,", "a.", "://", "@", "/", tails=("", "!", ":1")),
    ),
    "a secret's name": (is_secret_name, pumps("a_", "aA", "_", "key_")),
    ".env": (
        lambda text: parse_dotenv(text, {}),
        pumps("a=b\n", "a", "a='", "\n", " ", "#", "export ", "a=\\", head="a="),
    ),
    "text in the access log": (_escape, pumps("\x1b", "\u00e9", '"')),
    "text in the access log, as JSON": (_quote, pumps("\x1b", "\ud800", '"')),
    "a metric's label": (_escaped, pumps("\\", "\n", '"', "\ud800")),
    "a cut and escaped text": (lambda text: escape(text) + cut(text), pumps("\x1b", "\u202e", "a")),
}
"""The parsers of text from outside, with the hostile texts of each besides ``ANYWHERE``."""
