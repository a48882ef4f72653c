"""The regular expressions of the packages, each with the texts that could make it slow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

from gizmopy.config.channel_names import channel_key
from gizmopy.config.dotenv_file import parse_dotenv
from gizmopy.config.duration import parse_duration
from gizmopy.config.urls import mask_login
from gizmopy.server.http.connection.framing import _PLAIN, _SIZE, _TRAILER
from gizmopy.server.service import Service, service_name
from gizmopy.web import CORS
from gizmopy.web.backtracking import growth
from gizmopy.web.multipart import _HIGH_BYTE as _FORM_BYTE
from gizmopy.web.router import RouteNotFound, Router, parse_template
from tests.linear_time.hostile_texts import Hostile, Run, pumps


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
    "gizmopy.untrusted.durations:_PART": Pattern(parse_duration, pumps("1", "1.", "1m", "m")),
    "gizmopy.untrusted.durations:_PARTS": Pattern(
        "fullmatch", pumps("1111s", "1", "1.", "1m", ".1h", "1ms", tails=("", "!", "s", "m!"))
    ),
    "gizmopy.untrusted.durations:_SECONDS": Pattern("fullmatch", pumps("1", "1.", ".1")),
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
    "gizmopy.server.http.listening.sockets:_WITH_PORT": Pattern(
        "fullmatch", pumps("a", ":", "[", "]", "1", tails=("", ":1", "!"))
    ),
    "gizmopy.cli.target:_TARGET": Pattern(
        "fullmatch", pumps("a", ".", ":", "a.", "a:", tails=("", ":a", "!"))
    ),
    "gizmopy.cli.main:TARGET": Pattern(
        "fullmatch", pumps("a", ".", "/", ".py", "a:", tails=("", ":a", ".py", "!"))
    ),
    "gizmopy.config.dotenv_file:_ASSIGNMENT": Pattern(
        "match", pumps(" ", "a", "export ", "a.", "=", head="export ", tails=("", "=", "!"))
    ),
    "gizmopy.config.dotenv_file:_QUOTED": Pattern(
        lambda text: parse_dotenv(text, {}), pumps("'", "\\", "a", "\\'", head="a='")
    ),
    "gizmopy.config.dotenv_file:_QUOTED#2": Pattern(
        lambda text: parse_dotenv(text, {}), pumps('"', "\\", "a", '\\"', head='a="')
    ),
    "gizmopy.config.dotenv_file:_COMMENT": Pattern("match", pumps(" ", "\t", "#", tails=("", "!"))),
    "gizmopy.config.dotenv_file:_BLANK_AND_SIGN": Pattern("search", pumps(" ", "a", "#")),
    "gizmopy.config.dotenv_file:_EXPANDED": Pattern(
        lambda text: parse_dotenv(f"a={text}", {"a": "1"}),
        pumps("$", "${", "}", "${a", "${a}", "{", "$$", tails=("", "}", "{")),
    ),
    "gizmopy.config.dotenv_file:_EXPANDED_OR_ESCAPED": Pattern(
        lambda text: parse_dotenv(f'a="{text}"', {"a": "1"}),
        pumps("$", "${", "}", "${a", "${a}", "{", "$$", "\\$", "\\", tails=("", "}", "{")),
    ),
    "gizmopy.config.dotenv_file:_REFERENCE": Pattern(
        "fullmatch", pumps("a", "a.", "-", ":-", "\n", tails=("", "!", ":"))
    ),
    "gizmopy.config.documents:_TOKEN": Pattern(
        "findall", pumps('"', "\\", '"a"', '"a" ', '"a":', "{", " ", tails=("", ":", '"'))
    ),
    "gizmopy.config.unknown_names:_SERVICE_LINK": Pattern(
        "search", pumps("_PORT_", "1", "_SERVICE_PORT", "A", "_PORT_1", tails=("", "_TCP", "!"))
    ),
    "gizmopy.config.documents:_NULL": Pattern("match", pumps("~", "null")),
    "gizmopy.config.documents:_BOOL": Pattern("match", pumps("true", "t")),
    "gizmopy.config.documents:_INT": Pattern("match", pumps("1", "0", "0x1", "+", "0o7")),
    "gizmopy.config.documents:_FLOAT": Pattern("match", pumps("1", "1.", ".1", "1e1", ".inf", "+")),
    "gizmopy.config.documents:_MERGE": Pattern("match", pumps("<", "<<")),
    "gizmopy.config.documents:_QUOTED": Pattern(
        "sub", pumps(" ", "'", '"', " '", "' ", "'a", "\"'", "''\"", head="x", tails=("", "x", "'"))
    ),
    "gizmopy.observe.log_files:_DESCRIPTOR": Pattern(
        "fullmatch", pumps("1", "/", head="/proc/self/fd/")
    ),
    "gizmopy.observe.metrics:_NAME": Pattern("fullmatch", pumps("a", ":", "a1")),
    "gizmopy.observe.metrics:_LABEL": Pattern("fullmatch", pumps("a", "_", "a1")),
    "gizmopy.observe.context:_is_request_id": Pattern("fullmatch", pumps("a", "1", "a-")),
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
    "gizmopy.pubsub.event_binding:_ESCAPED": Pattern("sub", pumps("\\", "\\a", "a")),
    "gizmopy.server.asyncapi:_NOT_IN_KEYS": Pattern("sub", pumps("a", "/", "\u00e9")),
    "gizmopy.server.asyncapi:_QUALIFIERS": Pattern("sub", pumps("a", "a.", "<", ".")),
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
    "gizmopy.server.http.failure_causes:_TIMEOUT_NAME": Pattern(
        "search", pumps("T", "Time", "Timed", "TimeO", "D", "Deadlin")
    ),
    "gizmopy.server.http.proxies:_ADDRESS": Pattern(
        "fullmatch",
        [
            *pumps("1", "1.", ":", "a:", "%", "::"),
            *pumps("a", "%", "]", "]:1", head="[", tails=("",)),
        ],
    ),
    "gizmopy.server.http.proxies:_PREFIX": Pattern(
        "fullmatch", pumps("/", "/a", "a", "%41", "%", "/%41", head="/")
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
    "gizmopy.web.events:_LINE_END": Pattern("split", pumps("\r", "\n", "\r\n", "\na")),
    "gizmopy.web.files:_RANGE": Pattern(
        "fullmatch", pumps("0", " ", "\t", "-", "0-", ",", head="bytes=")
    ),
    "gizmopy.web.files:_UNQUOTED": Pattern("sub", pumps("a", "/", '"', "\u00e9")),
    "gizmopy.web.multipart:_HIGH_BYTE": Pattern(
        lambda text: _FORM_BYTE(text.encode()), pumps("%", "%8", "8")
    ),
    "gizmopy.web.multipart:_DISPOSITION": Pattern(
        "fullmatch", pumps("a", ";", " ", "; ", ";a=", ";a=b", '\\"', " ;a", head='a; b="')
    ),
    "gizmopy.web.multipart:DISPOSITION_PARAMETERS": Pattern(
        "findall", pumps("a", ";", "; ", ";a=b", ' ;a="b"', "\\a", " ", head="; a=")
    ),
    "gizmopy.web.cookies:_ESCAPED": Pattern("sub", pumps("\\", "\\0", "\\07", "\\073", "a")),
    "gizmopy.web.multipart_form:_ESCAPED": Pattern("sub", pumps("\\", '\\"', "a")),
    "gizmopy.web.query_text:_HIGH_BYTE": Pattern("search", pumps("%", "%8", "8")),
    "gizmopy.web.openapi.document:_VARIABLE": Pattern(
        "sub", pumps("a", "{", "{a", "{}", ":", "{a:{", "{a:{}", "{a:{1}}", head="{")
    ),
    "gizmopy.web.openapi.document:_PYTHON_ONLY": Pattern(
        "search", pumps("(?", "(?a", "a", "\\", "*", "(?a:")
    ),
    "gizmopy.web.openapi.document:_SENTENCE_END": Pattern(
        "split", pumps(" ", "\n", ". ", " \n", ".", "\n ", ". a", head="x.", tails=("", "a", "A"))
    ),
    "gizmopy.web.openapi.security:_NOT_IN_A_NAME": Pattern("sub", pumps("a", "<", "é")),
    "gizmopy.web.security.declared:_is_token": Pattern("fullmatch", pumps("a", "-", "a;")),
    "gizmopy.web.security.schemes:_CONTROL": Pattern("search", pumps("a", "\x80")),
    "gizmopy.web.security.schemes:_TOKEN68": Pattern("fullmatch", pumps("a", "=", "a=", head="a")),
    "gizmopy.web.response_headers:_is_name": Pattern("fullmatch", pumps("a", "-", "a ")),
    "gizmopy.web.response_headers:_is_forbidden": Pattern("search", pumps("a", "é")),
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
