"""Give random text to each parser that reads text from outside, and see which errors come out.

    python -m tests.endurance.fuzz.parsers [EXAMPLES] [SEED]

The parsers are those of ``tests.linear_time``, the codecs, and the way from a record of Kafka
to a message and its dead letter. A finding is an error that ``ALLOWED`` does not have: nothing
above a parser expects it. Each is printed with a short input. The exit code is 1 if there is one.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NewType
from uuid import UUID

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from gizmopy import Duration, Service, subscribe
from gizmopy.errors import UndecodableMessage, UsageError
from gizmopy.observe import logs
from gizmopy.observe.trace import trace_context
from gizmopy.pubsub.brokers.kafka.aiokafka_compat import LenientRecords
from gizmopy.pubsub.brokers.kafka.lenient_records import mark_unreadable
from gizmopy.pubsub.brokers.kafka.poller import attributes_of
from gizmopy.pubsub.brokers.kafka.sender import _append, _hash
from gizmopy.pubsub.cloudevents import CloudEvent
from gizmopy.pubsub.codecs import Codec, codec_for
from gizmopy.pubsub.engine.dead_letter import Failure, as_dead_letter
from gizmopy.pubsub.engine.sizes import size_of
from gizmopy.pubsub.message import Message
from gizmopy.pubsub.middleware.idempotency import mark_key
from gizmopy.pubsub.redrive import restored
from gizmopy.pubsub.subscription import Subscription, collect_subscriptions
from gizmopy.server.http.connection.proxy_protocol import BadProxyHeader
from gizmopy.web import Problem
from tests.linear_time.hostile_texts import ANYWHERE, Hostile
from tests.linear_time.parsers import PARSERS, TIMESTAMP
from tests.linear_time.patterns import PATTERNS, runner

EXAMPLES = 4000
"""How many inputs each parser gets: with 100 parsers, some minutes."""

Errors = tuple[type[Exception], ...]
Run = Callable[[Any], object]

_REFUSED: Errors = (ValidationError,)
"""What a value of a setting, a query or a body is refused with."""
_TEMPLATE: Errors = (ValueError,)

ALLOWED: Mapping[str, Errors] = {
    **dict.fromkeys(("a duration", "a day", "yes or no", "networks", "kafka hosts"), _REFUSED),
    **dict.fromkeys(("X-Request-Timeout", "grpc-timeout", "Content-Type", "charset"), (Problem,)),
    **dict.fromkeys((name for name in PARSERS if name.startswith("routes, ")), (Problem,)),
    **dict.fromkeys((name for name in PARSERS if name.startswith("a template")), _TEMPLATE),
    **dict.fromkeys(
        ("JSON", *(name for name in PARSERS if name.startswith("a CloudEvent"))),
        (UndecodableMessage,),
    ),
    "a PROXY header": (BadProxyHeader,),
    # yarl's: such a target has been answered 400 before a path is taken from it.
    "a target": (ValueError, IndexError),
    "a path of the request": (ValueError,),
    "the names of a part": (ValueError, Problem),
    # urllib's, for what "a broker's URL" has refused before.
    **dict.fromkeys((name for name in PARSERS if name.startswith("a broker's URL")), (ValueError,)),
    "a URL of memory://": (UsageError, ValueError),
    "gizmopy.untrusted.durations:_PART": (PydanticCustomError,),
    "gizmopy.web.segments:SegmentPattern._parse": (Problem,),
    "gizmopy.web.segments:_groups_in": _TEMPLATE,
    "gizmopy.web.backtracking:growth": _TEMPLATE,
    "a batch of Kafka": (CorruptRecordException, ValueError),
}
"""What each parser may raise; of one that is not here, nothing. The codecs: UndecodableMessage."""


@dataclass
class Findings:
    """What a run saw."""

    read: Counter[str] = field(default_factory=Counter)
    """How many inputs each parser took."""
    refused: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    """An error that is not allowed, with a short input, by the parser's name."""


# Texts


_ODD = "\0\t\n\r\x1b\x7f\x80\x9bé\u0130\u0149\u0663\u2028\u202e\ufeff\uffff\U0001f408"
_DIGITS = st.integers(0, 10**40).map(str)


def texts(hostiles: Sequence[Hostile] = ()) -> st.SearchStrategy[str]:
    """Return texts of words that the parser knows, of odd characters, digits, and of anything."""
    words = {
        word
        for each in (*hostiles, *ANYWHERE)
        for word in (each.head, each.pump, each.tail)
        if word
    }
    piece = st.one_of(
        st.sampled_from(sorted(words)),
        st.sampled_from(_ODD),
        _DIGITS,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    )
    return st.builds(
        lambda pieces, times: "".join(pieces) * times,
        st.lists(piece, max_size=24),
        st.sampled_from((1, 1, 1, 40)),
    )


def _text_parsers() -> Iterator[tuple[str, Run, st.SearchStrategy[Any]]]:
    for name, (run, hostiles) in PARSERS.items():
        yield name, run, texts(hostiles)
    for name, pattern in PATTERNS.items():
        yield name, runner(name, pattern.use), texts(pattern.hostiles)


# Bodies


class Kind(Enum):
    CAT = "cat"


class Cat(BaseModel):
    name: str
    kind: Literal["cat"] = "cat"
    kittens: list[Cat] = []
    nap: Duration = timedelta(0)


@dataclass
class Dog:
    kind: Literal["dog"]
    born: date
    weight: Decimal = Decimal(0)


class Bird(TypedDict):
    kind: Literal["bird"]
    eggs: dict[int, float]


class Place(NamedTuple):
    x: float
    y: float = 0


Name = NewType("Name", str)
Pet = Annotated[Cat | Dog | Bird, Field(discriminator="kind")]
_CODECS: tuple[Any, ...] = (
    *(Any, Cat, Dog, Bird, Place, Pet, list[Pet], list[Cat | Dog | None], set[UUID], Kind),
    *(dict[str, datetime], tuple[int, str], bytes, str, Name, int, bytearray, memoryview),
    *(Annotated[str, Field(max_length=3)], Annotated[bytes, Field(min_length=3)]),
)
_WORDS = st.sampled_from(("cat", "dog", "bird", "name", "kind", "kittens", "born", "eggs", "1", ""))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS | texts(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_WORDS | texts(), inner),
    max_leaves=20,
)
BODIES = st.one_of(
    st.binary(max_size=100),
    texts().map(str.encode),
    _JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda value, at, piece: b"%b%b%b" % (value[:at], piece, value[at:]),
        _JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
        st.integers(0, 100),
        st.binary(max_size=3),
    ),
    st.builds(
        lambda body, more: body + b" " * more,
        _JSON.map(json.dumps).map(str.encode),
        st.sampled_from((600, 20_000)),
    ),
)


def _decoder(codec: Codec) -> Run:
    """Return what decodes a body; an error's text is bounded, and can be printed."""

    def decode(body: bytes) -> None:
        try:
            codec.decode(body)
        except UndecodableMessage as error:
            _check_text(error)
            raise

    return decode


def _check_text(error: Exception) -> None:
    """Assert that the text of an error is short, and can be written."""
    assert len(str(error).encode("utf-8", "surrogateescape")) < 8192, "the error is too long"


# Records of Kafka


class Cats(Service):
    @subscribe("cats")
    async def on_cat(self, message: Message) -> None:
        """Take any."""


SUBSCRIPTION: Subscription
(SUBSCRIPTION,) = collect_subscriptions(Cats(), "fuzz")

_BYTES = st.binary(max_size=40) | texts().map(str.encode)
_NAMES = st.sampled_from(
    (
        *("content-type", "traceparent", "tracestate", "ce-specversion", "ce-type", "ce-source"),
        *(
            "ce-id",
            "ce-time",
            "gizmo-dl-reason",
            "gizmo-dl-redriven",
            "gizmo-dl-source-topic",
            "correlation-id",
        ),
    )
) | _BYTES.map(lambda name: name.decode("utf-8", "surrogateescape"))
_HEADERS = st.lists(st.tuples(_NAMES, st.none() | _BYTES), max_size=8)
_TIMES = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.tuples(st.none() | _BYTES, st.none() | _BYTES, _HEADERS, _TIMES)


def take(record: tuple[bytes | None, bytes | None, Any, int]) -> None:
    """Take a record all the way: a message, its dead letter, and the message that is redriven.

    All of them can be sent to Kafka, shown and measured, whatever a producer has written.
    """
    key, body, headers, timestamp = record
    text = None if key is None else key.decode("utf-8", "surrogateescape")
    message = Message.received(
        "cats", body, text, attributes_of(headers), "cats-0@1", timestamp / 1000, None, None
    )
    mark_unreadable([message])
    _use(message)
    assert message.key is None or message.key.encode("utf-8", "surrogateescape") == key
    error = UndecodableMessage(message.unreadable or (message.key or "no"))
    failure = Failure(message, "undecodable", error, SUBSCRIPTION, datetime.now(UTC))
    letter = as_dead_letter(failure)
    _use(letter)
    _use(restored(letter, TIMESTAMP))


def _use(message: Message) -> None:
    attributes = message.attributes
    repr(message).encode("utf-8", "surrogateescape")
    assert size_of(message) > 0
    assert message.published_at.tzinfo is UTC
    logs.trace_id(trace_context(attributes))
    mark_key("cats", message.topic, message.key or "")
    if message.key is not None:
        _hash(message.key)
    try:
        CloudEvent.from_attributes(attributes)
    except UndecodableMessage as error:
        _check_text(error)
    builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 1 << 30)
    _append(_Builder(builder), message)


class _Builder:
    """Give each record the place that a producer's batch gives it."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def append(self, *, timestamp: None, **record: Any) -> Any:
        for name, _ in record["headers"]:
            name.encode()  # as the builder in C does
        return self._builder.append(0, timestamp=0, **record)


def _batch(key: bytes | None, body: bytes | None, at: int, change: bytes) -> bytes:
    """Return a batch of two records, damaged behind its head."""
    builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 1 << 20)
    for offset in range(2):
        builder.append(offset, timestamp=0, key=key, value=body, headers=[("name", key or b"")])
    whole = bytes(builder.build())
    place = 61 + at % (len(whole) - 61)
    return whole[:place] + change[: len(whole) - place] + whole[place + len(change) :]


BATCHES = st.builds(
    _batch, st.none() | _BYTES, st.none() | _BYTES, st.integers(0, 1000), st.binary(max_size=4)
)


def read_batch(data: bytes) -> None:
    """Read a batch as the lenient reader does."""
    records = LenientRecords(data)
    while records.has_next():
        for record in records.next_batch():
            take((record.key, record.value, record.headers, record.timestamp))


# The run


def parsers() -> Iterator[tuple[str, Run, st.SearchStrategy[Any], Errors]]:
    """Yield each parser: its name, what runs it, its inputs, and what it may raise."""
    for name, run, inputs in _text_parsers():
        yield name, run, inputs, ALLOWED.get(name, ())
    for type_ in _CODECS:
        name = f"the codec of {type_}".replace(f"{__name__}.", "")
        yield name, _decoder(codec_for(type_)), BODIES, (UndecodableMessage,)
    yield "a record of Kafka", take, RECORDS, ()
    yield "a batch of Kafka", read_batch, BATCHES, ALLOWED["a batch of Kafka"]


def fuzz(examples: int, seed_: int = 0) -> Iterator[tuple[str, Findings]]:
    """Give ``examples`` inputs to each parser, and yield its name with what was seen so far.

    hypothesis shortens an input that is a finding.
    """
    findings = Findings()
    for name, run, inputs, allowed in parsers():
        examine(findings, name, run, inputs, allowed, examples, seed_)
        yield name, findings


def examine(
    findings: Findings,
    name: str,
    run: Run,
    inputs: st.SearchStrategy[Any],
    allowed: Errors,
    examples: int,
    seed_: int,
) -> None:
    """Give inputs to one parser, and note in ``findings`` what came of them."""
    last: Any = None

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @seed(seed_)
    @given(inputs)
    def check(given_: Any) -> None:
        nonlocal last
        last = given_
        try:
            run(given_)
        except allowed:
            findings.refused[name] += 1
        else:
            findings.read[name] += 1

    try:
        check()
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is the finding
        findings.errors[name] = f"{type(error).__name__}: {error} for {ascii(last)[:500]}"


def main(examples: int = EXAMPLES, seed_: int = 0) -> int:
    """Print what each parser read and refused, and each finding; return the exit code."""
    findings = Findings()
    for name, findings in fuzz(examples, seed_):
        counts = f"{findings.read[name]:8} read {findings.refused[name]:8} refused"
        print(f"{counts}  {name}", flush=True)
        if name in findings.errors:
            print(f"FINDING in {name}: {findings.errors[name]}", flush=True)
    total = findings.read.total() + findings.refused.total()
    print(f"{total} inputs, {len(findings.errors)} findings")
    return int(bool(findings.errors))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
