"""Turn aiokafka's errors into gizmopy's, with their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
)

from gizmopy.errors import PubSubError
from gizmopy.untrusted.error_text import text_of

_TRANSIENT = (KafkaTimeoutError, OutOfOrderSequenceNumber, ProducerClosed, ProducerFenced)
"""Errors that a new producer does not have, though aiokafka does not call them retriable."""


def describe_error(error: BaseException) -> str:
    """Return the name and the text of an error; the name often says more."""
    name, text = type(error).__name__, text_of(error)
    if name in text:  # most of aiokafka's texts begin with it
        return text
    return f"{name}: {text}" if text else name


@contextmanager
def translate_errors(problem: str) -> Iterator[None]:
    """Raise PubSubError, beginning with ``problem``, in place of aiokafka's and system errors."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        transient = (
            not isinstance(error, KafkaError) or error.retriable or isinstance(error, _TRANSIENT)
        )
        raise PubSubError(f"{problem}: {describe_error(error)}", transient=transient) from error
