"""The publisher under random failures, limits and calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gizmopy.errors import PubSubError
from gizmopy.observe.metrics import Metrics
from gizmopy.pubsub import RetryPolicy
from tests.pubsub.publisher.support import PERMANENT, TRANSIENT, GatedSender, buffered, publisher

VERDICTS = st.sampled_from([None, None, TRANSIENT, TRANSIENT, PERMANENT])


@settings(max_examples=100, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=30),
    verdicts=st.lists(VERDICTS, max_size=60),
    cuts=st.lists(st.integers(1, 5), min_size=30, max_size=30),
    ordered_batches=st.booleans(),
    slow=st.booleans(),
    lingers=st.booleans(),
    room=st.sampled_from([1, 2, 3, 5, 8, 30]),
)
def test_every_call_has_one_result_and_every_key_its_order(
    keys: list[str | None],
    verdicts: list[Exception | None],
    cuts: list[int],
    ordered_batches: bool,
    slow: bool,
    lingers: bool,
    room: int,
) -> None:
    """The confirmed messages are those that arrived, once each, with each key in order.

    With room for all messages, that is the order of the calls. With less, each publish_many keeps
    its own order, and the single calls keep the order of the calls.
    """
    sender = GatedSender()
    sender.slow = slow
    sender.verdict = lambda _: verdicts.pop() if verdicts else None
    options = {
        "ordered_batches": ordered_batches,
        "batch_messages": 4,
        "linger": 60.0 if lingers else 0.0,
        "buffered": room,
        "retry": RetryPolicy(attempts=4),
    }
    parts: list[range] = []
    while (start := parts[-1].stop if parts else 0) < len(keys):
        parts.append(range(start, min(start + cuts[len(parts)], len(keys))))
    confirmed = asyncio.run(_publish_in_parts(sender, keys, parts, options))
    sent = [(message.key, int(message.body or b"")) for message in sender.sent]
    assert Counter(number for _, number in sent) == Counter(confirmed)
    singles = [part.start for part in parts if len(part) == 1]
    in_order = [range(len(keys))] if room >= len(keys) else [*parts, singles]
    for key, numbers in product("abc", in_order):
        ours = [number for k, number in sent if k == key and number in numbers]
        assert ours == sorted(ours)


async def _publish_in_parts(
    sender: GatedSender, keys: list[str | None], parts: list[range], options: dict[str, Any]
) -> list[int]:
    """Publish each number under its key, some in one call; return the confirmed ones."""
    metrics = Metrics()
    async with publisher(sender, metrics, **options) as out:

        async def one(number: int) -> list[Exception | None]:
            try:
                await out.publish(str(number), key=keys[number])
            except PubSubError as error:
                return [error]
            return [None]

        async def part(numbers: range) -> Sequence[Exception | None]:
            if len(numbers) == 1:
                return await one(numbers[0])
            return await out.publish_many(map(str, numbers), key=lambda n: keys[int(n)])

        results = await asyncio.gather(*map(part, parts))
        assert buffered(metrics) == 0
    assert [len(result) for result in results] == [len(numbers) for numbers in parts]
    every = [error for result in results for error in result]
    return [number for number, error in enumerate(every) if error is None]
