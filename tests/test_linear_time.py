"""Each parser of text from outside takes linear time, on 16 KB of hostile text (issue 11).

``python -m tests.test_linear_time`` prints the time of each regular expression and each parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from pydantic import TypeAdapter
from yarl import URL

import gizmopy
import pubsubtest
from gizmopy.config import Duration
from gizmopy.config.backends.kafka import KafkaSettings, without_group
from gizmopy.config.channel_names import channel_key
from gizmopy.config.duration import parse_duration
from gizmopy.config.secrets.masking import is_secret_name, mask_text
from gizmopy.config.secrets.redaction import ValueContext, redacted_value
from gizmopy.config.sections.http import Networks
from gizmopy.config.sources import _parse_dotenv
from gizmopy.config.urls import mask_login, redacted_url, scheme_and_hosts, validated_url
from gizmopy.config.validation import comma_list
from gizmopy.observe import logs
from gizmopy.observe.access import _escape, _quote
from gizmopy.observe.exposition import _escaped
from gizmopy.observe.trace import trace_context
from gizmopy.pubsub.brokers.memory import open_driver
from gizmopy.pubsub.cloudevents import CloudEvent
from gizmopy.pubsub.codecs import codec_for
from gizmopy.pubsub.engine.dead_letter_topics import topic_of
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.redrive import restored
from gizmopy.server.health.probes import _accepts_json
from gizmopy.server.http.connection.framing import _PLAIN, _SIZE, _TRAILER
from gizmopy.server.http.connection.proxy_protocol import read_header
from gizmopy.server.http.deadlines import callers_timeout
from gizmopy.server.http.handler import _path
from gizmopy.server.http.listening.sockets import is_loopback
from gizmopy.server.http.proxies import Proxies
from gizmopy.server.service import Service, service_name
from gizmopy.untrusted.text import cut, escape
from gizmopy.web import CORS, Request
from gizmopy.web.backtracking import growth
from gizmopy.web.body import _check_content_type
from gizmopy.web.router import RouteNotFound, Router, parse_template
from gizmopy.web.types import ISODate, Truthy
from tests.hostile import ANYWHERE, MAX_RATIO, Hostile, Run, Times, pumps, worst
from tests.patterns import patterns_in


class Pattern(NamedTuple):
    """How a pattern is used, and texts that its own quantifiers could make slow."""

    use: str | Run
    """The method that is called, or the function that the pattern is written in."""
    hostiles: list[Hostile]
    is_compiled: bool = False
    """Whether the text is a developer's pattern, which takes milliseconds to compile."""


class Classes:
    """Make services whose classes have a name from a text."""

    def name(self, text: str) -> str:
        service = Service()
        made = type(text.replace("\x00", "_") or "_", (Service,), {"settings": service.settings})
        return service_name(object.__new__(made))


def match_with(*templates: str) -> Run:
    """Return a function that matches a path below each template."""

    def match(text: str) -> object:
        with suppress(RouteNotFound):
            router.match("GET", f"/f/{text}")
        return router.allowed(f"/f/{text}")

    router: Router[str] = Router()
    for template in templates:
        router.add("GET", template, template)
    return match


CORS_OF_MANY = CORS(("https://*.example.com", "https://*.a.a.a.com", "http://localhost:8080"))

PATTERNS: Mapping[str, Pattern] = {
    "gizmopy.config.duration:_PART": Pattern(parse_duration, pumps("1", "1.", "1m", "m")),
    "gizmopy.config.duration:_PARTS": Pattern(
        "fullmatch", pumps("1111s", "1", "1.", "1m", ".1h", "1ms", tails=("", "!", "s", "m!"))
    ),
    "gizmopy.config.duration:_SECONDS": Pattern("fullmatch", pumps("1", "1.", ".1")),
    "gizmopy.config.hosts:_NAME": Pattern(
        "fullmatch", [*pumps("a", "a.", ".", "*."), *pumps("f:", "f", head="[", tails=("", "]!"))]
    ),
    "gizmopy.config.backends.kafka:_HOST": Pattern(
        "fullmatch", [*pumps("a", "a.", "1:", ":"), *pumps("a:", "f", head="[", tails=("", "]!"))]
    ),
    "gizmopy.config.flags:_FLAG_NAME": Pattern("fullmatch", pumps("a", "-", head="--")),
    "gizmopy.config.secrets.masking:_NAME": Pattern(
        "search", pumps("a", "a ", "a'", "-", " a", 'a" ', "a  ", tails=("", "!", "=", "'"))
    ),
    "gizmopy.config.secrets.masking:_VALUE": Pattern(
        "match", pumps("'", '"', "'\"", "a", "'a", tails=("",))
    ),
    "gizmopy.config.secrets.masking:_SCHEMES": Pattern(
        "sub", pumps("basic", "basic ", " ", "bearer\t", head="basic", tails=("", ",", "a"))
    ),
    "gizmopy.config.secrets.masking:_PEM_END": Pattern(
        "findall", pumps("-----END ", "-----END a", "-", "a", "-----END a-----")
    ),
    "gizmopy.config.plain_text:_SURROGATE": Pattern("search", pumps("a", "\u00e9", "\ud7ff")),
    "gizmopy.config.error_translation:_WORD": Pattern("findall", pumps("a", "a ", "aaa ", "_")),
    "gizmopy.config.channel_names:channel_key": Pattern(
        channel_key, pumps("a", "-", "\u0149", "A_")
    ),
    "gizmopy.config.secrets.redaction:_HOST_PORT": Pattern(
        "fullmatch", [*pumps("a", "a.", "-", ":1"), *pumps(":", "f", head="[", tails=("", "]:1!"))]
    ),
    "gizmopy.config.urls:_HOST_IN_URL": Pattern(
        "fullmatch", [*pumps("a", "a.", "-", ":1"), *pumps(":", "f", head="[", tails=("", "]:1!"))]
    ),
    "gizmopy.config.urls:_URL": Pattern(
        "fullmatch",
        [
            *pumps("a", "a:", "://"),
            *pumps("a", "a,", "/", "?", "@", ":1,", "[::1],", head="a://", tails=("", "\n")),
        ],
    ),
    "gizmopy.config.urls:_BLANK": Pattern(
        mask_login, pumps("a", " ", ":", head="a:", tails=("@", " @"))
    ),
    "gizmopy.config.sources:_QUOTED": Pattern(
        "sub", pumps(" ", "'", '"', " '", "' ", "'a", "\"'", "''\"", head="x", tails=("", "x", "'"))
    ),
    "gizmopy.observe.log_files:_DESCRIPTOR": Pattern(
        "fullmatch", pumps("1", "/", head="/proc/self/fd/")
    ),
    "gizmopy.observe.metrics:_NAME": Pattern("fullmatch", pumps("a", ":", "a1")),
    "gizmopy.observe.metrics:_LABEL": Pattern("fullmatch", pumps("a", "_", "a1")),
    "gizmopy.observe.trace:_TRACEPARENT": Pattern(
        "fullmatch",
        [*pumps("0", "00-", "f"), *pumps("0", "-", head=f"01-{'a' * 32}-{'b' * 16}-00")],
    ),
    "gizmopy.observe.trace:_TRACESTATE": Pattern("fullmatch", pumps("a", "\t", "a=1,")),
    "gizmopy.pubsub.cloudevents:_EXTENSION": Pattern("fullmatch", pumps("a", "1", "a1")),
    "gizmopy.pubsub.cloudevents:_RFC_3339": Pattern(
        "fullmatch",
        [*pumps("1", "1-"), *pumps("1", head="2018-04-05T17:31:00.", tails=("", "Z", "+01:0"))],
    ),
    "gizmopy.pubsub.cloudevents:_FORBIDDEN": Pattern("search", pumps("a", "\u00e9", "\U0001f408")),
    "gizmopy.server.http.deadlines:_GRPC_DURATION": Pattern("fullmatch", pumps("1", "1S", "S")),
    "gizmopy.server.admin.debug:_libraries": Pattern(
        lambda text: re.match(r"[\w.-]+", text), pumps("a", "a-", ".")
    ),
    "gizmopy.server.http.connection.framing:_PLAIN": Pattern(
        lambda text: _PLAIN(text.encode()), pumps("a", "0", tails=("", "\r\n", "\r"))
    ),
    "gizmopy.server.http.connection.framing:_SIZE": Pattern(
        lambda text: _SIZE(text.encode()),
        [*pumps("a", "0"), *pumps(" ", "\t", ";", ";a=", head="5", tails=("", "\r\n", "\n"))],
    ),
    "gizmopy.server.http.connection.framing:_TRAILER": Pattern(
        lambda text: _TRAILER(text.encode()), pumps("a", ":", "a:", " ", tails=("", "\r\n", "\n"))
    ),
    "gizmopy.server.http.request_context:_VALID_ID": Pattern("fullmatch", pumps("a", "1", "a-")),
    "gizmopy.server.http.proxies:_ADDRESS": Pattern(
        "fullmatch",
        [
            *pumps("1", "1.", ":", "a:", "%", "::"),
            *pumps("a", "%", "]", "]:1", head="[", tails=("",)),
        ],
    ),
    "gizmopy.server.service:_own_name": Pattern(Classes().name, pumps("a", "A", "Aa", "aA", "AAa")),
    "gizmopy.web.authority:_HOST": Pattern(
        "fullmatch", [*pumps("a", "%41", "%", ":", ":1", "."), *pumps(":", "f", ".", head="[")]
    ),
    "gizmopy.web.cors:_ORIGIN_SYNTAX": Pattern(
        "fullmatch", [*pumps("a", "a.", "a:"), *pumps("a", "a.", "*.", ":1", head="https://")]
    ),
    "gizmopy.web.cors:CORS.__init__": Pattern(
        CORS_OF_MANY._matches,
        pumps("a", "a.", ".", "example.com", ".a", "a.a.a.com", head="https://"),
    ),
    "gizmopy.web.cors:_SECOND_LEVEL_REGISTRY": Pattern("fullmatch", pumps("co", "c", "gov")),
    "gizmopy.web.openapi.document:_VARIABLE": Pattern(
        "sub", pumps("a", "{", "{a", "{}", ":", "{a:{", "{a:{}", "{a:{1}}", head="{")
    ),
    "gizmopy.web.openapi.document:_PYTHON_ONLY": Pattern(
        "search", pumps("(?", "(?a", "a", "\\", "*", "(?a:")
    ),
    "gizmopy.web.openapi.document:_SENTENCE_END": Pattern(
        "split", pumps(" ", "\n", ". ", " \n", ".", "\n ", ". a", head="x.", tails=("", "a", "A"))
    ),
    "gizmopy.web.router:_SEGMENT": Pattern(
        "findall", pumps("a", "{", "{a", "{}", "/{", "/{{}", "{{}", "{a:{1}}", "/", head="/{")
    ),
    "gizmopy.web.router:_VARIABLES": Pattern("split", pumps("{", "{a", "{}", "{{}", "a", head="{")),
    "gizmopy.web.regex_automaton:_CATEGORIES": Pattern(
        lambda text: growth(f"[{re.escape(text)}\\d]+"), pumps("a", "\u0663"), True
    ),
    "gizmopy.web.backtracking:growth": Pattern(
        lambda text: growth(re.escape(text)), pumps("a", "a*", "(a)", "a|"), True
    ),
    "gizmopy.web.segments:SegmentPattern._parse": Pattern(
        match_with(
            "/f/v{x:[0-9.]+}",
            "/f/{a:[0-9]+}.{b:[a-z]+}",
            "/f/{id:[0-9a-f-]{36}}",
            "/f/{name}-{version:[0-9.]+}.{ext}",
            "/f/{a}-{b}-{c}-{d:[0-9]+}",
            "/f/{a:x+}-{b}-{c}.{d}-{e:[0-9]+}",
        ),
        pumps(
            "0", "0.", "a", "0.a", "v", "-", "-1", "-1.", "x-", "x", "-1.1-", tails=("", "!", "-1")
        ),
    ),
    "gizmopy.web.segments:_groups_in": Pattern(
        lambda text: parse_template(f"/{{a:{re.escape(text)}}}"), pumps("a", "(a)", "a|"), True
    ),
    "gizmopy.web.types:_ISO_DATE": Pattern("fullmatch", pumps("1", "1-", "2024-01-01")),
}
"""The hostile texts of every regular expression in the packages."""


def header(name: str, read: Callable[[Request], object]) -> Run:
    """Return a reader of one header of a request."""
    return lambda text: read(REQUEST.clone(headers=CIMultiDict({name: text})))


def new_request() -> Request:
    """Return a request to be cloned with other headers or another target."""
    made: Any = make_mocked_request("POST", "/")
    parts = (made._message, made._payload, made.protocol, made.writer, made.task, made._loop)
    return Request(*parts).clone(remote="127.0.0.1")


REQUEST = new_request()


def message(*names: str, **fixed: str) -> Callable[[str], Message]:
    """Return a function that makes a message with the text in these attributes."""
    return lambda text: Message("t", b"", attributes={**fixed, **dict.fromkeys(names, text)})


def event(name: str) -> Run:
    """Return a reader of a CloudEvent that has the text in one attribute."""
    whole = {"ce-specversion": "1.0", "ce-type": "a", "ce-source": "/b", "ce-id": "c"}
    return lambda text: CloudEvent.from_attributes({**whole, name: text})


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
    "a day": (typed(ISODate), pumps("1", "2024-01-01")),
    "yes or no": (typed(Truthy), pumps("t", "true")),
    "a redriven message": (
        lambda text: restored(message("dl-redriven", "dl-source-topic", "a")(text), TIMESTAMP),
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
        lambda text: [*_parse_dotenv(text, ".env", {}, {}, {})],
        pumps("a=b\n", "a", "a='", "\n", " ", "#", "export ", "a=\\", head="a="),
    ),
    "text in the access log": (_escape, pumps("\x1b", "\u00e9", '"')),
    "text in the access log, as JSON": (_quote, pumps("\x1b", "\ud800", '"')),
    "a metric's label": (_escaped, pumps("\\", "\n", '"', "\ud800")),
    "a cut and escaped text": (lambda text: escape(text) + cut(text), pumps("\x1b", "\u202e", "a")),
}
"""The parsers of text from outside, with the hostile texts of each besides ``ANYWHERE``."""


def runner(name: str, use: str | Run) -> Run:
    """Return a function that uses the pattern of a name in ``PATTERNS``."""
    if not isinstance(use, str):
        return use
    module, _, place = name.partition(":")
    found = getattr(import_module(module), place)
    pattern: re.Pattern[Any] = found if isinstance(found, re.Pattern) else found.__self__
    arguments = ("-",) if use == "sub" else ()
    method = getattr(pattern, use)
    if isinstance(pattern.pattern, bytes):
        return lambda text: method(*arguments, text.encode("utf-8", "surrogateescape"))
    return lambda text: method(*arguments, text)


def times_of_pattern(name: str) -> Times:
    """Return the times of the worst text for a pattern."""
    pattern = PATTERNS[name]
    others = () if pattern.is_compiled else ANYWHERE
    return worst(runner(name, pattern.use), [*pattern.hostiles, *others])


def times_of_parser(name: str) -> Times:
    """Return the times of the worst text for a parser."""
    parser, hostiles = PARSERS[name]
    return worst(parser, [*hostiles, *ANYWHERE])


def test_every_pattern_has_its_hostile_texts() -> None:
    """A regular expression in the packages without an entry in ``PATTERNS`` fails the tests."""
    found = [
        name for package in (gizmopy, pubsubtest) for name in patterns_in(Path(*package.__path__))
    ]
    assert found, "the search finds no pattern"
    assert sorted(found) == sorted(PATTERNS), "add new patterns, and remove deleted ones"
    assert all(pattern.hostiles for pattern in PATTERNS.values())


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_matches_in_linear_time(name: str) -> None:
    """Four times the text takes no more than six times as long."""
    times = times_of_pattern(name)
    assert times.ratio <= MAX_RATIO, times


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_in_linear_time(name: str) -> None:
    """Four times the text takes no more than six times as long."""
    times = times_of_parser(name)
    assert times.ratio <= MAX_RATIO, times


@pytest.mark.parametrize(
    ("pattern", "pump"), [(r"(?:[0-9]+\.?[0-9]*s)+", "1111s"), (r"[0-9]+\.?[0-9]*", "1")]
)
def test_the_measurement_detects_slow_patterns(pattern: str, pump: str) -> None:
    """An exponential and a quadratic pattern fail: two former patterns of durations."""
    with pytest.raises(AssertionError):
        assert worst(re.compile(pattern).fullmatch, pumps(pump)).ratio <= MAX_RATIO


def test_the_search_finds_every_use_of_a_pattern(tmp_path: Path) -> None:
    """Patterns are found under another name, in functions, in classes and as arguments."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import re as r, fnmatch\n"
        "from re import compile as c\n"
        "ONE = r.compile('a').fullmatch\n"
        "TWO: object = c('a')\n"
        "MANY = map(r.compile, 'ab')\n"
        "class Kind:\n"
        "    THREE = c('a')\n"
        "    def method(self):\n"
        "        x = r.sub('a', 'b', 'c')\n"
        "        return [fnmatch.translate(x), r.escape(x)]\n"
    )
    assert patterns_in(package) == [
        "package:ONE",
        "package:TWO",
        "package:MANY",
        "package:Kind.THREE",
        "package:Kind.method",
        "package:Kind.method#2",
    ]


def main() -> None:
    """Print the times of each pattern and each parser, in microseconds of CPU."""
    print(f"{'16 KB':>9} {'ratio':>6}  name")  # noqa: T201 -- asked for
    for names, times_of in ((PATTERNS, times_of_pattern), (PARSERS, times_of_parser)):
        for name in names:
            times = times_of(name)
            print(f"{times.long * 1e6:7.0f}µs {times.ratio:6.1f}  {name}  {times.hostile}")  # noqa: T201


if __name__ == "__main__":
    main()
